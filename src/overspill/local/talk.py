"""Tell the user what is going on, on stderr, so that stdout holds data only.

In: texts. Out: lines; on a terminal a spinner while something takes long.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from rich.console import Console

__all__ = ["say", "step"]

TELL_EVERY = 30.0


def say(text: str) -> None:
    """One line to the user."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the talk of the command line


@contextlib.asynccontextmanager
async def step(text: str, *, expected: str = "") -> AsyncIterator[None]:
    """Tell that something starts, that it still runs, and how long it took."""
    hint = f" (about {expected})" if expected else ""
    began = time.monotonic()
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(f"{text}{hint} …"):
            yield
    else:
        if expected:
            say(f"{text}{hint} …")
        ticker = asyncio.ensure_future(_tick(text, began)) if expected else None
        try:
            yield
        finally:
            if ticker:
                ticker.cancel()
    say(f"{text}: {time.monotonic() - began:.1f} s")


async def _tick(text: str, began: float) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY)
        say(f"{text}: still at it after {time.monotonic() - began:.0f} s")
