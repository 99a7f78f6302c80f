"""/livez, /readyz, /healthz and /metrics of one process.

In: named checks, each None when good, else the reason. Out: HTTP in the apiserver's words. Invariant:
a check is asked anew at each request and must be cheap; nothing here changes anything.
Source: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping

import structlog
from aiohttp import web

from overspill import metrics
from overspill.errors import Misconfigured

__all__ = ["health_app", "serve"]

log = structlog.get_logger(__name__)

Check = Callable[[], str | None]


async def serve(host: str, port: int, checks: Mapping[str, Check], *, live: Collection[str] = ()) -> None:
    """Serve until cancelled; port 0 takes a free one, which is logged.

    `/readyz` and `/healthz` ask all checks. `/livez`, after whose failure a kubelet restarts the
    process, asks only those named in `live`: what a restart can cure.

    Raises:
        Misconfigured: the address cannot be had.
    """
    runner = web.AppRunner(health_app(checks, live=live), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def health_app(checks: Mapping[str, Check], *, live: Collection[str] = ()) -> web.Application:
    """The endpoints, to be served alone or beside others."""
    app = web.Application()
    asked = {"livez": {name: checks[name] for name in live}, "readyz": checks, "healthz": checks}
    for path, of_path in asked.items():
        app.router.add_get(f"/{path}", _endpoint(path, of_path))
    app.router.add_get("/metrics", _metrics)
    return app


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Misconfigured(
            f"health endpoint: cannot listen on {host}:{port}: {error.strerror or error}; "
            "give another --health-address"
        ) from error
    bound = runner.addresses[0]
    log.info("health endpoint listens", host=bound[0], port=bound[1])


def _endpoint(path: str, checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        troubles = {name: check() for name, check in checks.items()}
        healthy = not any(troubles.values())
        if healthy and "verbose" not in request.query:
            return web.Response(text="ok")
        text = "\n".join([*_lines(troubles), f"{path} check {'passed' if healthy else 'failed'}", ""])
        return web.Response(text=text, status=200 if healthy else 500)

    return answer


def _lines(troubles: Mapping[str, str | None]) -> Iterator[str]:
    yield "[+]ping ok"
    for name, trouble in troubles.items():
        yield f"[-]{name} failed: {trouble}" if trouble else f"[+]{name} ok"


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})
