"""An emulator in this process, small and fast, over the simulated engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from overspill.emulator.auth import AccessKey
from overspill.emulator.cloud import Timings
from overspill.emulator.network import SecurityGroup, VSwitch
from overspill.emulator.run import Endpoint, Settings, serve

KEY = AccessKey("contract-key", "contract-secret")


@contextlib.asynccontextmanager
async def running_emulator(state: Path) -> AsyncIterator[Endpoint]:
    """For the time of the block."""
    settings = Settings(
        state=state,
        vswitches=(VSwitch("vsw-a", "cn-hangzhou-h", "10.231.0.0/24"),),
        security_groups=(SecurityGroup("sg-1", "enterprise"),),
        access_key=KEY,
        timings=Timings(scheduling=0.0, image_cache=0.0, spot_notice=0.3),
        rates={},
    )
    ready: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve(settings, ready=ready.set_result))
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            yield ready.result()
        serving.cancel()
