"""Port-forwarding: connections of a client carried to ports of a pod.

In: an agreed conversation and a way to connect. Out: bytes both ways, each direction half-closed on its
own. Invariants: a connection that fails takes no other with it; each is let go in every case.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from overspill.backends.base import Process
from overspill.errors import OverspillError
from overspill.serve.streams.forwards import Forward, Forwards
from overspill.serve.streams.inbox import Reset

__all__ = ["run"]

log = structlog.get_logger(__name__)

Connect = Callable[[int], Awaitable[Process]]


async def run(forwards: Forwards, *, connect: Connect, target: str) -> None:
    """Serve connections until there are no more."""
    async with asyncio.TaskGroup() as group:
        while (forward := await forwards.next()) is not None:
            group.create_task(_serve(forward, connect, target))


async def _serve(forward: Forward, connect: Connect, target: str) -> None:
    try:
        cause = await _carry(forward, await connect(forward.port))
    except (OverspillError, OSError) as error:
        cause = str(error)
    except Exception:
        log.exception("port-forward broke", port=forward.port)
        cause = "the node's agent has a defect; its log says more"
    await forward.finish(f"error forwarding port {forward.port} to {target}: {cause}" if cause else "")


async def _carry(forward: Forward, process: Process) -> str:
    """Carry both directions until the pod's side ends or the client gives up; returns what went wrong."""
    cause = ""
    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(_feed(forward, process)), group.create_task(forward.inbox.watch())]
            try:
                async for _, data in process.output():
                    await forward.write(data)
            except (OverspillError, OSError) as error:
                cause = str(error)
            for task in others:
                task.cancel()
    except* Reset:
        pass  # the client's own connection is closed
    finally:
        await process.close()
    return cause


async def _feed(forward: Forward, process: Process) -> None:
    """Carry the client's direction."""
    try:
        while data := await forward.inbox.take():
            await process.write(data)
        await process.close_stdin()
    except Reset:
        return  # whoever watches ends it all
    except (OverspillError, OSError) as error:
        log.debug("the pod takes no more", port=forward.port, error=str(error))
        forward.inbox.discard()
