"""How a process of ours runs and ends.

In: what it is to do. Out: an exit code: 0 ok, 1 failure, 3 not found or not ready, 130 interrupted, and on
failure one clear line on stderr. Invariant: SIGTERM and SIGINT are a cancellation that is waited for; a
process that has work to finish may take its first SIGTERM as a question, and no other signal.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from overspill.errors import NotFound, OverspillError, Retry, Unsettled
from overspill.printable import printable

__all__ = ["ending_well", "first_of", "patiently", "run_until_signalled"]

log = structlog.get_logger(__name__)

# How long a start is tried, and the pause between two tries.
PATIENCE, PAUSE = 30.0, 1.0


def ending_well(main: Callable[[], Any]) -> None:
    """Call `main`; an error of ours ends the process with its words and its exit code."""
    try:
        main()
    except OverspillError as error:
        told = "\n".join(map(printable, str(error).split("\n")))
        sys.stderr.write(f"error: {told}\n")
        sys.exit(3 if isinstance(error, NotFound) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def run_until_signalled(main: Coroutine[Any, Any, None], *, asked: asyncio.Event | None = None) -> None:
    """Run it on uvloop where that is installed: 10 to 20 % less CPU at a steady pace.

    With `asked` the first SIGTERM sets that and nothing else; the next one, and every SIGINT, ends at once.

    Raises:
        OverspillError: of what ended its tasks, the first that is ours: it tells a person what to do.
    """
    with contextlib.suppress(asyncio.CancelledError):
        try:
            import uvloop  # noqa: PLC0415 - an optional extra
        except ImportError:
            asyncio.run(_cancelled_by_signals(main, asked))
        else:
            uvloop.run(_cancelled_by_signals(main, asked))


async def patiently(
    run: Callable[[], Awaitable[None]], *, hurried: Callable[[], bool] = lambda: False
) -> None:
    """Run it, and begin anew what fails at the start and may pass by itself, for half a minute.

    Whoever started this process would wait ever longer to do so. Nobody waits once it is `hurried`.

    Raises:
        Whatever ended it for good; at the end of the patience that says what to do.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await run()
        except (Retry, Unsettled, ExceptionGroup) as error:
            cause = _passing(error)
            if cause is None or time.monotonic() > deadline or hurried():
                raise
            log.warning("not started yet; trying again", error=str(cause))
        await asyncio.sleep(PAUSE)


def _passing(error: Exception) -> BaseException | None:
    """What may pass by itself; what ends a process in the midst of its work comes in a group."""
    if not isinstance(error, ExceptionGroup):
        return error
    ours, others = error.split(Unsettled)
    return first_of(ours) if ours is not None and others is None else None


async def _cancelled_by_signals(main: Coroutine[Any, Any, None], asked: asyncio.Event | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)

    def ask(question: asyncio.Event) -> None:
        question.set()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)

    if asked is None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    else:
        loop.add_signal_handler(signal.SIGTERM, ask, asked)
    try:
        await main
    except ExceptionGroup as group:
        ours = group.subgroup(OverspillError)
        if ours is None:
            raise
        raise first_of(ours) from None


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is no group itself."""
    error = group.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error
