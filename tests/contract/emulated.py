"""Emulators for the contract suite: one for each engine and session, in a thread of its own.

Each test has its own event loop, and an emulator outlives them all: so that a test costs no start.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from overspill.emulator.auth import AccessKey
from overspill.emulator.cloud import Timings
from overspill.emulator.network import SecurityGroup, VSwitch
from overspill.emulator.run import Endpoint, Settings, serve

KEY = AccessKey("contract-key", "contract-secret")


@contextlib.contextmanager
def running_emulator(state: Path, *, cidr: str = "10.231.0.0/24", **engine: Any) -> Iterator[Endpoint]:
    """For the time of the block: without limits on calls, and with nothing that takes time of its own."""
    settings = Settings(
        state=state,
        vswitches=(VSwitch("vsw-a", "cn-hangzhou-h", cidr),),
        security_groups=(SecurityGroup("sg-1", "enterprise"),),
        access_key=KEY,
        timings=Timings(scheduling=0.0, image_cache=0.0, spot_notice=0.3),
        rates={},
        **engine,
    )
    ready: Future[Endpoint] = Future()
    stop: Future[None] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="emulator") as thread:
        ended = thread.submit(asyncio.run, _serve(settings, ready, stop))
        try:
            wait({ready, ended}, return_when=FIRST_COMPLETED)
            if not ended.done():
                yield ready.result()
        finally:
            stop.set_result(None)
            ended.result()  # raises what ended it before its time


async def _serve(settings: Settings, ready: Future[Endpoint], stop: Future[None]) -> None:
    serving = asyncio.create_task(serve(settings, ready=ready.set_result))
    await asyncio.wait({serving, asyncio.wrap_future(stop)}, return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
