"""A proxy in front of the apiserver that does to its clients what networks and busy apiservers do.

In: requests of agents and controllers, with their own tokens; orders of the schedule. Out: the apiserver's
answers, late, cut, lost or refused. Invariant: without an order it changes nothing; what it refuses has
never reached the apiserver, and what it loses always has.
"""

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web

from overspill.pki import KeyPair, issue

HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive", "date", "server"}
# Of the requests that could meet it.
PART = 0.4
REFUSALS = {"api-5xx": (503, "ServiceUnavailable"), "api-429": (429, "TooManyRequests")}


class Proxy:
    """One listening port.

    Attributes:
        met: how often each kind of order changed something.
    """

    def __init__(self, upstream: str, pki: Path, *, host: str, seed: int) -> None:
        self._upstream, self._pki, self._host = upstream, pki, host
        self._luck = random.Random(seed)
        self._orders: dict[str, float] = {}
        self._watches: dict[asyncio.Task, web.StreamResponse] = {}
        self._expiring: set[asyncio.Task] = set()
        self._connections: set[asyncio.Transport] = set()
        self.met: Counter[str] = Counter()
        self.port = 0

    async def __aenter__(self) -> Self:
        authority = KeyPair((self._pki / "ca.crt").read_bytes(), (self._pki / "ca.key").read_bytes())
        pair = issue(
            authority, common_name="chaos", organizations=(), hosts=(self._host,), server=True, client=False
        )
        certificate, key = self._pki / "chaos.crt", self._pki / "chaos.key"
        certificate.write_bytes(pair.certificate)
        key.touch(mode=0o600)
        key.write_bytes(pair.key)
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(certificate, key)
        trusting = ssl.create_default_context(cafile=self._pki / "ca.crt")
        connector = aiohttp.TCPConnector(ssl=trusting, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0, ssl_context=serving)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in [*self._watches]:
            task.cancel()
        for transport in [*self._connections]:
            transport.abort()
        await self._runner.cleanup()
        await self._session.close()

    # --- orders ---

    def order(self, kind: str, seconds: float) -> None:
        """Have a part of all requests, or all watches, meet this for so long."""
        self._orders[kind] = time.monotonic() + seconds
        if kind == "expired":
            self._expiring |= set(self._watches)
            for task in [*self._expiring]:
                task.cancel()

    def cut(self) -> None:
        """Reset every connection."""
        for transport in [*self._connections]:
            transport.abort()
            self.met["watch-cut"] += 1

    def peers(self) -> set[tuple[str, int]]:
        """Address and port of the other end of every connection."""
        living = [each for each in self._connections if not each.is_closing()]
        return {each.get_extra_info("peername")[:2] for each in living}

    def calm(self) -> None:
        """Be a plain proxy again."""
        self._orders.clear()

    def _met(self, kind: str, *, always: bool = False) -> bool:
        if self._orders.get(kind, 0.0) < time.monotonic() or not (always or self._luck.random() < PART):
            return False
        self.met[kind] += 1
        return True

    # --- requests ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        self._connections.add(transport)
        self._connections -= {each for each in self._connections if each.is_closing()}
        if request.query.get("watch") in {"true", "1"}:
            return await self._watch(request)
        for kind, (status, reason) in REFUSALS.items():
            if self._met(kind):
                return _refusal(status, reason)
        try:
            async with self._asked(request) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError):
            transport.abort()
            return web.Response()
        if self._met("api-lost-reply"):
            transport.abort()
        return web.Response(status=answer.status, body=body, headers=_kept(answer.headers))

    def _asked(self, request: web.Request):
        return self._session.request(
            request.method,
            self._upstream + request.raw_path,
            headers=_kept(request.headers),
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept", "Content-Type"),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("resourceVersion") and self._met("expired", always=True):
            return _refusal(410, "Expired")
        response = web.StreamResponse()
        task = asyncio.current_task()
        assert task is not None
        self._watches[task] = response
        try:
            async with self._asked(request) as answer:
                response.set_status(answer.status)
                response.headers.update(_kept(answer.headers))
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
        except asyncio.CancelledError:
            if task not in self._expiring:
                raise
            self._expiring.discard(task)
            task.uncancel()
            self.met["expired"] += 1
            if response.prepared:
                await response.write(
                    json.dumps({"type": "ERROR", "object": _status(410, "Expired")}).encode() + b"\n"
                )
        except (aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            del self._watches[task]
        return response


def _kept(headers):
    return {name: value for name, value in headers.items() if name.lower() not in HOP}


def _status(code: int, reason: str) -> dict:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "ordered by the schedule",
        "reason": reason,
        "code": code,
    }


def _refusal(code: int, reason: str) -> web.Response:
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(_status(code, reason), status=code, headers=headers)
