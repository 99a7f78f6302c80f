"""exec and attach: a process's streams carried to a client.

In: an agreed session and a way to start the process. Out: bytes both ways, terminal sizes in, the
outcome out. Invariants: the process is let go in every case; the client is told an outcome in every
case in which it still listens, since silence would read as success.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from overspill.backends.base import Process
from overspill.errors import OverspillError, Rejected
from overspill.serve.request import Request
from overspill.serve.streams.inbox import Inbox, Reset
from overspill.serve.streams.outcome import Outcome
from overspill.serve.streams.session import Session, Wanted
from overspill.serve.streams.terminal import SizeDecoder

__all__ = ["run", "wanted"]

log = structlog.get_logger(__name__)

Start = Callable[[], Awaitable[Process]]


def wanted(request: Request) -> Wanted:
    """The streams that a request asks for, by `input`, `output`, `error` and `tty`, each "1" or absent.

    Raises:
        Rejected: for none (400).
    """
    stdin, stdout, stderr, tty = (
        request.parameter(name) == "1" for name in ("input", "output", "error", "tty")
    )
    asked = Wanted(stdin=stdin, stdout=stdout, stderr=stderr and not tty, tty=tty)
    if not (asked.stdin or asked.stdout or asked.stderr):
        raise Rejected("you must specify at least 1 of stdin, stdout, stderr")
    return asked


async def run(session: Session, asked: Wanted, *, start: Start, attach: bool) -> None:
    """Start the process once the streams are there, carry them, and tell the outcome."""
    doing = "attaching to container" if attach else "executing command in container"
    try:
        await session.ready()
        code = await _run(session, asked, await start())
        # What an attached container ends with is its pod's status to tell, not ours.
        outcome = Outcome(code=0 if attach else code)
    except (OverspillError, OSError) as error:
        log.info("remote command failed", error=str(error), doing=doing)
        outcome = Outcome(error=f"error {doing}: {error}")
    except Exception:
        log.exception("remote command broke", doing=doing)
        outcome = Outcome(error=f"error {doing}: the node's agent has a defect; its log says more")
    await session.finish(outcome)


async def _run(session: Session, asked: Wanted, process: Process) -> int:
    """Carry a process's streams; returns its exit code."""
    trouble: OverspillError | OSError | None = None
    code = 0
    try:
        async with asyncio.TaskGroup() as group:
            inputs = [group.create_task(_resize(session.sizes, process))]
            if asked.stdin:
                inputs.append(group.create_task(_feed(session.stdin, process)))
            try:
                async for fd, data in process.output():
                    await session.write(fd, data)
                code = await process.wait()
            except (OverspillError, OSError) as error:
                trouble = error
            for task in inputs:
                task.cancel()
    finally:
        await process.close()
    if trouble:
        raise trouble
    return exit_code(code)


async def _feed(stdin: Inbox, process: Process) -> None:
    """Carry stdin until it ends or nobody reads it any more; the process goes on without."""
    try:
        with suppress(Reset):
            while data := await stdin.take():
                await process.write(data)
        await process.close_stdin()
    except (OverspillError, OSError) as error:
        log.debug("stdin ended early", error=str(error))
        stdin.discard()


async def _resize(sizes: Inbox, process: Process) -> None:
    decoder = SizeDecoder()
    with suppress(OverspillError, OSError):  # the process may have ended
        while data := await sizes.take():
            for width, height in decoder.feed(data):
                await process.resize(width=width, height=height)


def exit_code(code: int) -> int:
    """A code that clients can read: 0 to 255, with 128 + N for an end by signal N."""
    return (128 - code if code < 0 else code) & 0xFF
