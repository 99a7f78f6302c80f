"""`overspill emulator` from the outside: serve, status, faults, bill."""

import asyncio
import json
import signal
import sys

import pytest


async def run(*args: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "overspill.cli.main",
        "emulator",
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_from_start_to_end(tmp_path):
    state = str(tmp_path / "state")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "overspill.cli.main", "emulator", "serve", "--state", state, "--engine-option", "seed=1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(20):
            endpoint = (await process.stdout.readline()).decode().strip()
        code, out, _ = await run("status", "--state", state)
        told = json.loads(out)
        assert (code, told["endpoint"], told["engine"]) == (0, endpoint, "simulated")
        added = await run("faults", "add", "error", "--action", "ListUsage", "--count", "1", "--state", state)
        assert added[:2] == (0, "1\n")
        assert "ListUsage" in (await run("faults", "list", "--state", state))[1]
        assert (await run("faults", "clear", "1", "--state", state))[0] == 0
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
    assert process.returncode == 0
    code, out, _ = await run("bill", "--state", state, "-o", "json")
    assert (code, json.loads(out)["lines"]) == (0, [])
    code, _, err = await run("status", "--state", state)
    assert code == 1
    assert "no emulator answers" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--engine", "none"], "unknown backend 'none'"),
        (["serve", "--vswitch", "a=z:10.0.0.0/30"], "between /16 and /29"),
        (["serve", "--listen", "nonsense"], "HOST:PORT"),
        (["serve", "--engine-option", "speed=1"], "speed"),
        (["bill"], "no emulator was started"),
    ],
)
async def test_wrong_use_is_one_clear_line(tmp_path, arguments, told):
    code, _, err = await run(*arguments, "--state", str(tmp_path / "new"))
    assert code == 1
    assert told in err
    assert "Traceback" not in err
