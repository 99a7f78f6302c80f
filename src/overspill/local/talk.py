"""Tell the user what is going on, on stderr, so that stdout holds data only.

In: texts. Out: lines; on a terminal a spinner while something takes long.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator

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
        with _ticking(text, began) if expected else contextlib.nullcontext():
            yield
    say(f"{text}: {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def _ticking(text: str, began: float) -> Iterator[None]:
    """Say from time to time that it still runs."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(TELL_EVERY, lambda: tick())  # noqa: PLW0108 - defined below

    def tick() -> None:
        nonlocal timer
        say(f"{text}: still at it after {time.monotonic() - began:.0f} s")
        timer = loop.call_later(TELL_EVERY, tick)

    try:
        yield
    finally:
        timer.cancel()
