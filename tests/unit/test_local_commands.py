"""Short-lived programs: what they print, how they fail, and that none is left behind."""

import asyncio
import signal

import pytest

from overspill.errors import Misconfigured, Retry
from overspill.local.commands import all_of, run, succeeds, until


async def test_output_and_input():
    assert await run(["tr", "a", "b"], stdin=b"banana") == b"bbnbnb"


async def test_a_file_as_input_and_a_variable(tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    assert await run(["sh", "-c", "cat; echo $WORD"], stdin=tmp_path / "in", env={"WORD": "y"}) == b"xy\n"


async def test_a_failure_tells_program_code_and_last_words():
    with pytest.raises(Retry, match=r"(?s)`sh -c .*` ended with 7: no such thing"):
        await run(["sh", "-c", "echo noise; echo no such thing >&2; exit 7"])


async def test_a_missing_program_says_what_to_do():
    with pytest.raises(Misconfigured, match="no-such-program is not installed; `make setup`"):
        await run(["no-such-program"])


async def test_a_program_that_takes_too_long_is_ended(started):
    with pytest.raises(Retry, match="did not end within"):
        await run(["sleep", "1000"], timeout=0.1)
    assert [each.returncode for each in started] == [-signal.SIGKILL]


async def test_success_is_exit_code_zero():
    assert await succeeds(["true"])
    assert not await succeeds(["false"])


async def test_until_waits_and_gives_up_with_the_reason():
    looks = iter([False, False, True])

    async def third():
        return next(looks)

    async def never():
        return False

    await until(third, what="the third look", timeout=10)
    with pytest.raises(Retry, match="in vain for godot; see the tree"):
        await until(never, what="godot", timeout=0.1, why=lambda: "; see the tree")


async def test_the_first_error_cancels_the_others_and_is_itself():
    cancelled = asyncio.Event()

    async def fails():
        raise Misconfigured("no disk")

    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(Misconfigured, match=r"^no disk$"):
        await all_of(waits(), fails())
    assert cancelled.is_set()


async def test_an_interrupt_outranks_what_it_broke():
    begun = asyncio.Event()

    async def breaks():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise Retry("podman ended")

    everything = asyncio.create_task(all_of(breaks()))
    await begun.wait()
    everything.cancel()
    with pytest.raises(asyncio.CancelledError):
        await everything
