"""The health endpoints over HTTP."""

import asyncio
import socket

import aiohttp
import pytest

from overspill.errors import Misconfigured
from overspill.serve.health import serve


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def listening(port):
    """Wait until somebody listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


@pytest.fixture
async def ask():
    """Serve a watch and a lease that can be made to fail; returns (get, troubles)."""
    troubles = {"watch": None, "lease": None}
    checks = {name: (lambda name=name: troubles[name]) for name in troubles}
    port = free_port()
    serving = asyncio.ensure_future(serve("127.0.0.1", port, checks, live=["watch"]))
    async with asyncio.timeout(5):
        await listening(port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:

        async def get(path, method="GET"):
            async with client.request(method, path) as response:
                return response.status, await response.text()

        get.port = port
        yield get, troubles
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
async def test_good_is_one_word(ask, path):
    get, _ = ask
    assert await get(path) == (200, "ok")


async def test_verbose_names_every_check(ask):
    get, _ = ask
    assert await get("/readyz?verbose") == (
        200,
        "[+]ping ok\n[+]watch ok\n[+]lease ok\nreadyz check passed\n",
    )


async def test_a_failure_says_why(ask):
    get, troubles = ask
    troubles["lease"] = "not renewed for 41 s"
    assert await get("/readyz") == (
        500,
        "[+]ping ok\n[+]watch ok\n[-]lease failed: not renewed for 41 s\nreadyz check failed\n",
    )


async def test_liveness_asks_only_what_a_restart_can_cure(ask):
    get, troubles = ask
    troubles["lease"] = "not renewed"
    assert (await get("/livez"))[0] == 200
    troubles["watch"] = "silent"
    assert (await get("/livez"))[0] == 500
    troubles["watch"] = None
    assert (await get("/livez"))[0] == 200


async def test_metrics_are_beside_it(ask):
    get, _ = ask
    status, text = await get("/metrics")
    assert status == 200
    assert "# TYPE overspill_pod_start_seconds histogram" in text


async def test_a_taken_port_is_a_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"127.0.0.1:{port}.*in use.*--health-address"):
            await asyncio.wait_for(serve("127.0.0.1", port, {}), timeout=5)


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/readyz", "POST", 405)])
async def test_nothing_else_is_answered(ask, path, method, status):
    get, _ = ask
    assert (await get(path, method))[0] == status


async def test_a_client_that_speaks_nonsense_harms_nobody(ask):
    get, _ = ask
    reader, writer = await asyncio.open_connection("127.0.0.1", get.port)
    writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert await get("/readyz") == (200, "ok")


async def test_cancelling_frees_the_port():
    port = free_port()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve("127.0.0.1", port, {}))
        await listening(port)
        serving.cancel()
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_start_that_is_broken_off_at_any_point_leaves_the_port_free():
    """A start is tried again in the same process, at the same port."""
    port = free_port()
    for steps in range(1, 10):
        serving = asyncio.create_task(serve("127.0.0.1", port, {}))
        for _ in range(steps):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        socket.create_server(("127.0.0.1", port)).close()
