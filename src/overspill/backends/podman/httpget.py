"""GET as the kubelet's probes and hooks do it: no certificate is checked, redirects stay on their host.

In: an `HttpGetAction` and where its container is. Out: an `Outcome`, or why a
hook failed. Invariant: one connection for one request; nothing is kept.
Source: k8s.io/kubernetes pkg/probe/http/{http,request}.go.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
from msgspec import Struct
from yarl import URL

from overspill.backends.podman.place import LONGEST, Outcome, Place, dial_error, host_port
from overspill.errors import Rejected
from overspill.model.work import HttpGetAction

__all__ = ["call_http", "probe_http"]

PROBE, HOOK = "kube-probe/1.37", "kube-lifecycle/1.37"  # of the newest kubelet whose rules are kept here
REDIRECTS = 10
NO_LIMIT = aiohttp.ClientTimeout(total=None)


class _Answer(Struct, frozen=True):
    status: int
    body: bytes
    location: str


class _Failed(Exception):
    """There was no answer; says why in Go's words."""


async def probe_http(action: HttpGetAction, place: Place, seconds: float) -> Outcome:
    """200 to 399 is healthy; a redirect to another host is not followed, and said.

    Raises:
        Rejected: the action makes no URL.
    """
    url = _url(action, place)
    try:
        async with asyncio.timeout(seconds):
            answer = await _followed(url, _headers(action, PROBE), action.host, place)
    except TimeoutError:
        why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return Outcome(healthy=False, output=f'Get "{url}": {why}')
    except _Failed as failure:
        return Outcome(healthy=False, output=str(failure))
    body = answer.body.decode(errors="replace")
    if not 200 <= answer.status < 400:
        return Outcome(healthy=False, output=f"HTTP probe failed with statuscode: {answer.status}")
    if answer.status >= 300:
        return Outcome(
            healthy=True, output=f"Probe terminated redirects, Response body: {body}", warning=True
        )
    return Outcome(healthy=True, output=body)


async def call_http(action: HttpGetAction, place: Place) -> str:
    """Any answer will do; a server that speaks no TLS is called without. Returns why it failed, or "".

    Raises:
        Rejected: the action makes no URL.
    """
    url = _url(action, place)
    headers = _headers(action, HOOK)
    try:
        await _followed(url, headers, action.host, place)
    except _Failed as failure:
        if url.scheme != "https":
            return str(failure)
        try:
            await _followed(url.with_scheme("http"), headers, action.host, place)
        except _Failed:
            return str(failure)
    return ""


def _url(action: HttpGetAction, place: Place) -> URL:
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    text = f"{action.scheme.lower()}://{host_port(action.host or place.address, action.port)}{path}"
    try:
        return URL(text)
    except ValueError as error:
        raise Rejected(f'parse "{text}": {error}') from error


def _headers(action: HttpGetAction, agent: str) -> Mapping[str, str]:
    """Those that were asked for go before the kubelet's own; asked for as empty, one is not sent."""
    headers = {"user-agent": agent, "accept": "*/*", "connection": "close"}
    headers |= {name.lower(): value for name, value in action.headers}
    return {name: value for name, value in headers.items() if value}


async def _followed(url: URL, headers: Mapping[str, str], host: str, place: Place) -> _Answer:
    first = url
    for _ in range(REDIRECTS):
        answer = await _get(url, headers, host, place)
        if not 300 <= answer.status < 400 or not answer.location:
            return answer
        try:
            url = url.join(URL(answer.location))
        except ValueError as error:
            why = f'failed to parse Location header "{answer.location}": {error}'
            raise _Failed(f'Get "{url}": {why}') from error
        if url.host != first.host:
            return answer
    raise _Failed(f'Get "{url}": stopped after {REDIRECTS} redirects')


async def _get(url: URL, headers: Mapping[str, str], host: str, place: Place) -> _Answer:
    skip = [name for name in ("User-Agent", "Accept") if name.lower() not in headers]
    try:
        made = await place.socket_to(host) if not host else None
        connector = aiohttp.TCPConnector(
            ssl=False, force_close=True, socket_factory=(lambda _: made) if made else None
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=NO_LIMIT,
                skip_auto_headers=skip,
                auto_decompress=False,
            ) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            body = await response.content.read(LONGEST)
            return _Answer(response.status, body, response.headers.get("Location", ""))
    except aiohttp.ClientConnectorError as error:
        raise _Failed(
            f'Get "{url}": {dial_error(host_port(url.host or "", url.port or 0), error.os_error)}'
        ) from error
    except aiohttp.ServerDisconnectedError as error:
        raise _Failed(f'Get "{url}": EOF') from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _Failed(f'Get "{url}": {error}') from error
