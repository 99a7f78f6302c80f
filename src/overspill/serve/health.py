"""/livez, /readyz, /healthz and /metrics of one process.

In: named checks, each None when good, else the reason. Out: HTTP in the apiserver's words. Invariant:
a check is asked anew at each request and must be cheap; nothing here changes anything.
Source: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import structlog

from overspill import metrics
from overspill.backends.connections import let_go
from overspill.errors import Misconfigured
from overspill.serve.http import Answer, Refused, answer_bytes, parse_head, read_head
from overspill.serve.request import Request

__all__ = ["serve"]

log = structlog.get_logger(__name__)

# Seconds that a client has for its request, and to take the answer.
PATIENCE = 10.0

Check = Callable[[], str | None]
Endpoints = Mapping[str, Callable[[Request], Answer]]


async def serve(host: str, port: int, checks: Mapping[str, Check], *, live: Collection[str] = ()) -> None:
    """Serve until cancelled, one request a connection; port 0 takes a free one, which is logged.

    `/readyz` and `/healthz` ask all checks. `/livez`, after whose failure a kubelet restarts the
    process, asks only those named in `live`: what a restart can cure.

    Raises:
        Misconfigured: the address cannot be had.
    """
    asked = {"livez": {name: checks[name] for name in live}, "readyz": checks, "healthz": checks}
    endpoints = {f"/{name}": partial(_health, name, of_name) for name, of_name in asked.items()}
    server = await _listen(host, port, {**endpoints, "/metrics": _metrics})
    async with server:
        await server.serve_forever()


async def _listen(host: str, port: int, endpoints: Endpoints) -> asyncio.Server:
    try:
        # Cancelled once it serves, start_server would leave its socket open, and the port in use.
        server = await asyncio.start_server(partial(_connected, endpoints), host, port, start_serving=False)
    except OSError as error:
        raise Misconfigured(
            f"health endpoint: cannot listen on {host}:{port}: {error.strerror or error}; "
            "give another --health-address"
        ) from error
    bound = server.sockets[0].getsockname()
    log.info("health endpoint listens", host=bound[0], port=bound[1])
    return server


async def _connected(
    endpoints: Endpoints, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            try:
                head = await read_head(reader)
                answer = _answer(endpoints, head) if head is not None else None
            except Refused as refused:
                answer = refused.answer()
            if answer is not None:
                writer.write(answer_bytes(answer, keep_alive=False))
                await writer.drain()
    except (OSError, EOFError, TimeoutError) as error:
        log.debug("health request ended early", error=str(error))
    finally:
        await let_go(writer)


def _answer(endpoints: Endpoints, head: bytes) -> Answer:
    request, _ = parse_head(head)
    if request.path not in endpoints:
        raise Refused(404, "404 page not found")
    if request.method != "GET":
        raise Refused(405, "only GET is answered here")
    return endpoints[request.path](request)


def _health(name: str, checks: Mapping[str, Check], request: Request) -> Answer:
    troubles = {check: trouble() for check, trouble in checks.items()}
    healthy = not any(troubles.values())
    if healthy and "verbose" not in request.query:
        return Answer(200, b"ok")
    text = "\n".join([*_lines(troubles), f"{name} check {'passed' if healthy else 'failed'}", ""])
    return Answer(200 if healthy else 500, text.encode())


def _metrics(_request: Request) -> Answer:
    return Answer(200, metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def _lines(troubles: Mapping[str, str | None]) -> Iterator[str]:
    yield "[+]ping ok"
    for name, trouble in troubles.items():
        yield f"[-]{name} failed: {trouble}" if trouble else f"[+]{name} ok"
