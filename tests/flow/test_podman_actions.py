"""What probes and hooks do, against small servers: HTTP with its redirects and certificates, TCP, gRPC."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from overspill import pki
from overspill.backends.podman.actions import ask, run_hook
from overspill.backends.podman.place import Outcome, Place
from overspill.errors import Rejected
from overspill.model.work import GrpcAction, HttpGetAction, SleepAction, TcpSocketAction

# No Podman is asked, and the "pod" is this machine.
HERE = Place(None, "run", "127.0.0.1", "/no/such/namespace")  # type: ignore[arg-type]  # as said


class Server:
    """Answers as the path says, and remembers what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        match request.path.strip("/").split("/"):
            case ["status", code]:
                return web.Response(status=int(code), text="text")
            case ["to", *rest]:
                return web.Response(status=302, headers={"Location": "/" + "/".join(rest)}, text="moved")
            case ["away"]:
                return web.Response(status=302, headers={"Location": "http://192.0.2.1/"}, text="moved")
            case ["round"]:
                return web.Response(status=302, headers={"Location": "/round"})
            case ["nowhere"]:
                return web.Response(status=302, headers={"Location": "http://["}, text="moved")
            case ["long"]:
                return web.Response(text="x" * 100_000)
            case ["slow"]:
                await asyncio.sleep(60)
        return web.Response(text="fine")


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    app = web.Application()
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    server = Server(0)
    app.router.add_route("*", "/{path:.*}", server.answer)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as made:
        yield made


def get(server: Server, path: str, **fields) -> HttpGetAction:
    return HttpGetAction(server.port, path, **fields)


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/", Outcome(healthy=True, output="fine")),
        ("status/299", Outcome(healthy=True, output="text")),
        ("/status/400", Outcome(healthy=False, output="HTTP probe failed with statuscode: 400")),
        ("/status/500?why=not", Outcome(healthy=False, output="HTTP probe failed with statuscode: 500")),
        ("/to/status/200", Outcome(healthy=True, output="text")),
        ("/to/to/status/503", Outcome(healthy=False, output="HTTP probe failed with statuscode: 503")),
        (
            "/away",
            Outcome(healthy=True, output="Probe terminated redirects, Response body: moved", warning=True),
        ),
        ("/long", Outcome(healthy=True, output="x" * (10 << 10))),
    ],
)
async def test_http_status_and_redirects(server, path, outcome):
    assert await ask(get(server, path), HERE, 5.0) == outcome


async def test_a_redirect_round_and_round(server):
    outcome = await ask(get(server, "/round"), HERE, 5.0)
    assert not outcome.healthy
    assert "stopped after 10 redirects" in outcome.output


async def test_a_redirect_to_what_is_no_address(server):
    action = get(server, "/nowhere")
    outcome = await ask(action, HERE, 5.0)
    assert not outcome.healthy
    assert (
        f'Get "http://127.0.0.1:{server.port}/nowhere": failed to parse Location header "http://["'
        in outcome.output
    )
    assert "failed to parse Location header" in await run_hook(action, HERE)


async def test_a_host_that_makes_no_address_is_nobodys_failure():
    """A kubelet says so and counts nothing; its hooks fail."""
    action = HttpGetAction(80, "/", host="[")
    for asked in (lambda: ask(action, HERE, 5.0), lambda: run_hook(action, HERE)):
        with pytest.raises(Rejected, match=r'parse "http://\[:80/"'):
            await asked()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test"])
async def test_a_host_whose_name_cannot_be_looked_up(host):
    outcome = await ask(TcpSocketAction(80, host), HERE, 5.0)
    assert outcome == Outcome(
        healthy=False, output=f"dial tcp {host}:80: connect: lookup {host}: no such host"
    )


async def test_a_probe_says_who_it_is_and_sends_what_it_is_told(server):
    await ask(get(server, "/"), HERE, 5.0)
    headers = (("X-Key", "1"), ("User-Agent", "mine"), ("Accept", ""), ("Host", "example.test"))
    await ask(get(server, "/a?b=c", headers=headers), HERE, 5.0)
    plain, told = (request.headers for request in server.requests)
    assert plain["User-Agent"].startswith("kube-probe/")
    assert plain["Accept"] == "*/*"
    assert (told["X-Key"], told["User-Agent"], told["Host"]) == ("1", "mine", "example.test")
    assert "Accept" not in told
    assert str(server.requests[1].rel_url) == "/a?b=c"


async def test_no_answer_in_time(server):
    outcome = await ask(get(server, "/slow"), HERE, 0.2)
    why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    assert outcome == Outcome(healthy=False, output=f'Get "http://127.0.0.1:{server.port}/slow": {why}')


async def test_nobody_listens():
    async with serving() as server:
        port = server.port
    for action, begin in (
        (HttpGetAction(port), f'Get "http://127.0.0.1:{port}/": '),
        (TcpSocketAction(port), ""),
    ):
        outcome = await ask(action, HERE, 5.0)
        why = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
        assert outcome == Outcome(healthy=False, output=begin + why)


async def test_tcp_needs_nothing_but_a_connection(server):
    assert (await ask(TcpSocketAction(server.port), HERE, 5.0)).healthy
    assert (await ask(TcpSocketAction(server.port, "127.0.0.1"), HERE, 5.0)).healthy


async def test_https_checks_no_certificate(tmp_path):
    context = tls(tmp_path)
    async with serving(context) as server:
        assert (await ask(get(server, "/", scheme="HTTPS"), HERE, 5.0)).healthy
        assert not (await ask(get(server, "/", scheme="HTTP"), HERE, 5.0)).healthy
        assert await run_hook(get(server, "/", scheme="HTTPS"), HERE) == ""


async def test_a_hook_takes_any_answer_and_falls_back_from_tls(server):
    assert await run_hook(get(server, "/status/500"), HERE) == ""
    assert await run_hook(get(server, "/plain", scheme="HTTPS"), HERE) == ""
    assert [request.path for request in server.requests] == ["/status/500", "/plain"]
    assert server.requests[0].headers["User-Agent"].startswith("kube-lifecycle/")


async def test_a_hook_that_nobody_hears_fails():
    async with serving() as server:
        port = server.port
    assert "connection refused" in await run_hook(HttpGetAction(port), HERE)
    assert "connection refused" in await run_hook(HttpGetAction(port, scheme="HTTPS"), HERE)
    assert await run_hook(SleepAction(0), HERE) == ""


def tls(folder) -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts."""
    authority = pki.new_authority("nobody's")
    pair = pki.issue(authority, common_name="nobody", hosts=["nobody.test"], server=True)
    (folder / "crt").write_bytes(pair.certificate)
    (folder / "key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context


# --- gRPC: what a server of grpcio 1.85 really sent, frame by frame ---

GREETING = (
    b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00@\x00\x00\x00\x05\x00@\x00\x00\x00\x06\x00\x00@\x00"
    b"\xfe\x03\x00\x00\x00\x01\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00?\x00\x01\x00\x00\x00\x04\x01\x00\x00"
    b"\x00\x00\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x08\x06\x00\x00\x00\x00\x003G\x0b"
    b"\xa0\xed\xd4q\xf7\x00\x00N\x01\x04\x00\x00\x00\x01\x88@\x0ccontent-type\x10application/grpc@\x14"
    b"grpc-accept-encoding\x17identity, deflate, gzip"
)
SERVING = b"\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x08\x01"
NOT_SERVING = b"\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x08\x02"
NOT_KNOWN = b"\x00\x00\x05\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00"
TRAILERS = b"\x00\x00\x1e\x01\x05\x00\x00\x00\x01@\x0bgrpc-status\x010\x00\x0cgrpc-message\x00"
PADDED = b"\x00\x00\x0b\x00\x08\x00\x00\x00\x01\x03\x00\x00\x00\x00\x02\x08\x01\x00\x00\x00"
GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
HUGE = b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"


@asynccontextmanager
async def replaying(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that says what it says whatever it is asked; yields its port and what it was sent."""
    heard: list[bytes] = []
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"kube-probe/1.37"))
        for byte in answer:  # as badly cut as it gets
            writer.write(bytes([byte]))
            await writer.drain()
        heard.append(await reader.read())
        writer.close()
        done.set()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard
        await done.wait()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (SERVING + TRAILERS, Outcome(healthy=True, output="service healthy")),
        (PADDED + TRAILERS, Outcome(healthy=True, output="service healthy")),
        (
            NOT_SERVING + TRAILERS,
            Outcome(healthy=False, output='service unhealthy (responded with "NOT_SERVING")'),
        ),
        (
            NOT_KNOWN + TRAILERS,
            Outcome(healthy=False, output='service unhealthy (responded with "UNKNOWN")'),
        ),
        (TRAILERS, Outcome(healthy=False, output="error: health rpc probe failed")),
        (GOAWAY, Outcome(healthy=False, output="error: health rpc probe failed")),
        (HUGE, Outcome(healthy=False, output="error: health rpc probe failed")),
    ],
)
async def test_grpc_health(answer, outcome):
    async with replaying(GREETING + answer) as (port, heard):
        assert await ask(GrpcAction(port, "db"), HERE, 5.0) == outcome
    assert b"/grpc.health.v1.Health/Check" in heard[0]
    assert b"\x00\x00\x00\x00\x04\x0a\x02db" in heard[1]  # the request's message
    assert b"\x00\x00\x00\x04\x01\x00\x00\x00\x00" in heard[1]  # the settings are acknowledged
    assert b"\x00\x00\x08\x06\x01\x00\x00\x00\x003G\x0b\xa0\xed\xd4q\xf7" in heard[1]  # the ping is answered


async def test_a_server_that_asks_without_end_and_reads_nothing_is_not_answered_without_end():
    ping, sent, over = b"\x00\x40\x00\x06\x00\x00\x00\x00\x00" + bytes(1 << 14), 0, asyncio.Event()

    async def floods(_reader, writer):
        nonlocal sent
        try:
            while True:
                writer.write(ping)
                await writer.drain()
                sent += len(ping)
        except ConnectionError:
            over.set()
        finally:
            writer.close()

    async with await asyncio.start_server(floods, "127.0.0.1", 0, limit=1 << 14) as server:
        outcome = await ask(GrpcAction(server.sockets[0].getsockname()[1]), HERE, 1.0)
        await over.wait()
    assert outcome.output.startswith("timeout")
    assert sent < 32 << 20  # what fits into the buffers of sockets


async def test_grpc_without_an_answer():
    async with replaying(b"") as (port, _):
        outcome = await ask(GrpcAction(port), HERE, 0.2)
    assert outcome == Outcome(healthy=False, output="timeout: health rpc did not complete within 0.2s")
    outcome = await ask(GrpcAction(port), HERE, 5.0)
    assert outcome.output.startswith(f'error: failed to connect service at "127.0.0.1:{port}"')
