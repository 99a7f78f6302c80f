"""Runs what goes on until a signal ends it.

In: a coroutine. Out: its end, by SIGTERM or SIGINT as a cancellation that is waited for.
"""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

__all__ = ["run_until_signalled"]


def run_until_signalled(main: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop where that is installed: 10 to 20 % less CPU at a steady pace."""
    with contextlib.suppress(asyncio.CancelledError):
        try:
            import uvloop  # noqa: PLC0415 - an optional extra
        except ImportError:
            asyncio.run(_cancelled_by_signals(main))
        else:
            uvloop.run(_cancelled_by_signals(main))


async def _cancelled_by_signals(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await main
