"""The health endpoints over HTTP."""

import asyncio
import socket

import pytest
from aiohttp.test_utils import TestClient, TestServer

from overspill.errors import Misconfigured
from overspill.serve.health import health_app, serve


@pytest.fixture
async def ask():
    """Serve an app with a watch that can be made to fail; returns (get, troubles)."""
    troubles = {"watch": None, "lease": None}
    checks = {name: (lambda name=name: troubles[name]) for name in troubles}
    async with TestClient(TestServer(health_app(checks, live=["watch"]))) as client:

        async def get(path):
            async with client.get(path) as response:
                return response.status, await response.text()

        yield get, troubles


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


async def test_cancelling_frees_the_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def connect():
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve("127.0.0.1", port, {}))
        await connect()
        serving.cancel()
    with socket.create_server(("127.0.0.1", port)):
        pass
