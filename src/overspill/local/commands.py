"""Run short-lived programs and wait for conditions.

In: an argv. Out: its output. Invariant: a cancelled call leaves no child behind; a failed one is told
with the program, its exit code and the end of what it said.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from overspill.errors import Misconfigured, Retry

__all__ = ["all_of", "run", "succeeds", "until"]

POLL = 0.05
TOLD_LINES = 15


async def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | Path = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120.0,
) -> bytes:
    """Run a program and return what it wrote to stdout.

    Raises:
        Misconfigured: the program is not installed.
        Retry: it ended with another code than 0, or not within `timeout` seconds.
    """
    words = [str(word) for word in argv]
    code, out, err = await _communicate(words, stdin=stdin, env=env, cwd=cwd, timeout=timeout)
    if code:
        raise Retry(f"`{_shown(words)}` ended with {code}: {_tail(err or out)}")
    return out


async def succeeds(argv: Sequence[str | Path], *, timeout: float = 30.0) -> bool:
    """Whether a program ends with 0."""
    code, _, _ = await _communicate([str(word) for word in argv], stdin=b"", timeout=timeout)
    return code == 0


async def _communicate(
    words: list[str],
    *,
    stdin: bytes | Path,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int, bytes, bytes]:
    pipe = asyncio.subprocess.PIPE
    source = stdin.open("rb") if isinstance(stdin, Path) else None
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=source or pipe,
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise Misconfigured(f"{words[0]} is not installed; `make setup` installs what is needed") from error
    finally:
        if source:
            source.close()
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin if isinstance(stdin, bytes) else None)
    except TimeoutError as error:
        raise Retry(f"`{_shown(words)}` did not end within {timeout:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


def _shown(words: list[str]) -> str:
    line = " ".join([Path(words[0]).name, *words[1:]])
    return line if len(line) <= 200 else line[:200] + "…"


def _tail(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-TOLD_LINES:]) or "it said nothing"


async def until(
    check: Callable[[], Awaitable[bool]], *, what: str, timeout: float, why: Callable[[], str] = lambda: ""
) -> None:
    """Wait until `check` is true.

    Raises:
        Retry: not within `timeout` seconds; the message adds what `why` says.
    """
    deadline = time.monotonic() + timeout
    while not await check():
        if time.monotonic() > deadline:
            raise Retry(f"waited {timeout:.0f} s in vain for {what}{why()}")
        await asyncio.sleep(POLL)


async def all_of(*parts: Coroutine[Any, Any, Any]) -> None:
    """Run all at once; the first error cancels the others and is raised as itself.

    An interrupt outranks it, so errors are kept from the group: the same Ctrl-C ends a child that has not left this
    process group yet, and whoever pressed it is to hear of that, not of what it broke.
    """
    failures: list[Exception] = []
    running: list[asyncio.Task[None]] = []

    async def one(part: Coroutine[Any, Any, Any]) -> None:
        try:
            await part
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
            for task in running:
                if task is not asyncio.current_task():
                    task.cancel()

    async with asyncio.TaskGroup() as tasks:
        running.extend(tasks.create_task(one(part)) for part in parts)
    if failures:
        raise failures[0]
