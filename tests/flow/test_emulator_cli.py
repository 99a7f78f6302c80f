"""`overspill emulator` from the outside: serve, status, faults, bill."""

import asyncio
import json
import signal
import sys

import pytest
from emulators import emulator
from typer.testing import CliRunner

from overspill.cli.emulator import app
from overspill.errors import Misconfigured, NotFound


async def ask(*arguments: str) -> str:
    """What a command prints; its error is raised."""
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    if result.exception:
        raise result.exception
    return result.output


async def serve(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "overspill.cli.main", "emulator", "serve", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_from_start_to_end(tmp_path):
    state = str(tmp_path / "state")
    process = await serve("--state", state, "--engine-option", "seed=1")
    assert process.stdout
    try:
        async with asyncio.timeout(40):
            endpoint = (await process.stdout.readline()).decode().strip()
        told = json.loads(await ask("status", "--state", state))
        assert (told["endpoint"], told["engine"]) == (endpoint, "simulated")
        arguments = ("--action", "ListUsage", "--count", "1", "--state", state)
        assert await ask("faults", "add", "error", *arguments) == "1\n"
        assert "ListUsage" in await ask("faults", "list", "--state", state)
        await ask("faults", "clear", "1", "--state", state)
        assert "ListUsage" not in await ask("faults", "list", "--state", state)
        with pytest.raises(Misconfigured, match="no fault"):
            await ask("faults", "add", "nonsense", "--state", state)
        with pytest.raises(Misconfigured, match="no action, count or probability"):
            await ask("faults", "add", "clock-skew", "--count", "1", "--state", state)
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0
    assert json.loads(await ask("bill", "--state", state, "-o", "json"))["lines"] == []
    with pytest.raises(Misconfigured, match="no emulator answers"):
        await ask("status", "--state", state)


async def test_a_leaked_group_shows_as_money(tmp_path):
    async with emulator(tmp_path) as rig:
        group = await rig.create("leaked")
        await rig.until_status(group, "Running")
        told = await ask("bill", "--running", "--state", str(tmp_path))
    assert "leaked" in told
    assert "1 running at" in told


async def test_wrong_use_is_one_clear_line(tmp_path):
    process = await serve("--state", str(tmp_path / "state"), "--engine", "none")
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().startswith("error: unknown backend 'none': choose one of")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"listen": "nonsense"}, "HOST:PORT"),
        ({"engine_options": {"speed": 1}}, "speed"),
        ({"tls": ("/nonexistent", "/nonexistent")}, "cannot be used"),
    ],
)
async def test_wrong_settings_are_named(tmp_path, changes, told):
    with pytest.raises(ExceptionGroup) as refused:
        async with emulator(tmp_path, **changes):
            pass
    assert refused.group_contains(Misconfigured, match=told)


async def test_no_state_folder(tmp_path):
    with pytest.raises(Misconfigured, match="no emulator was started"):
        await ask("bill", "--state", str(tmp_path))


async def test_an_emulator_is_named_once_and_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(Misconfigured, match="--state for an emulator of your own, or --name"):
        await ask("bill", "--state", str(tmp_path), "--name", "other")
    for command in (("bill",), ("status",), ("faults", "list"), ("interrupt", "eci-1")):
        with pytest.raises(NotFound, match="no cluster 'overspill'"):
            await ask(*command)
