"""Killed at any moment, the emulator goes on with everything that a client was told of."""

import asyncio
import json
import os
import signal
import stat
import sys

import pytest
from emulators import KEY, VSWITCHES, Rig, container, emulator
from typer.testing import CliRunner

from overspill.cli.emulator import app
from overspill.emulator.auth import AccessKey
from overspill.emulator.network import VSwitch
from overspill.emulator.run import DATABASE, ENDPOINT, read_endpoint
from overspill.errors import Misconfigured


async def start(state):
    """An emulator as a process of its own."""
    networks = (f"--vswitch={v.id}={v.zone}:{v.cidr}" for v in VSWITCHES)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "overspill.cli.main", "emulator", "serve", "--unlimited-rate"),
        *("--state", str(state), "--access-key-id", KEY.id, "--scheduling-seconds=0", *networks),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OVERSPILL_EMULATOR_ACCESS_KEY_SECRET": KEY.secret},
    )
    assert process.stdout
    async with asyncio.timeout(40):
        assert await process.stdout.readline()
    return process, Rig(read_endpoint(state))


async def kill(process):
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process._transport.close()


async def test_kill_9_loses_nothing(tmp_path):
    process, rig = await start(tmp_path)
    try:
        ids = await asyncio.gather(*(rig.create(f"kept-{n}", client_token=f"t{n}") for n in range(5)))
        for group in ids:
            await rig.until_status(group, "Running")
        before = {group: item["PodStatus"]["PodIp"] for group, item in (await rig.statuses()).items()}
        await rig.call("delete_container_group", container_group_id=ids[0])
        await rig.until_gone(ids[0])
        late = await rig.create("last", client_token="last")
    finally:
        await kill(process)

    process, again = await start(tmp_path)
    try:
        assert again.endpoint.endpoint == rig.endpoint.endpoint
        after = {group: item["PodStatus"]["PodIp"] for group, item in (await again.statuses()).items()}
        assert after.keys() == {*ids[1:], late}
        assert after.items() >= {g: ip for g, ip in before.items() if g != ids[0]}.items()
        assert len(set(after.values())) == 5
        for group in after:
            await again.until_status(group, "Running")
        assert await again.create("last", client_token="last") == late
        bill = await again.admin("GET", "/bill")
        assert bill["total"] | {"groups": 6, "running": 5} == bill["total"]
    finally:
        await kill(process)


async def test_a_restart_on_demand_is_a_crash_that_loses_nothing(tmp_path):
    process, rig = await start(tmp_path)
    try:
        group = await rig.create("kept")
        address = (await rig.until_status(group, "Running"))["PodStatus"]["PodIp"]
        await rig.admin("POST", "/faults", {"kind": "no-stock"})
        again = await asyncio.to_thread(CliRunner().invoke, app, ["restart", "--state", str(tmp_path)])
        assert again.exit_code == 0, again.output
        endpoint = read_endpoint(tmp_path)
        assert (endpoint.pid, endpoint.endpoint) == (process.pid, rig.endpoint.endpoint)
        rig = Rig(endpoint)
        assert (await rig.until_status(group, "Running"))["PodStatus"]["PodIp"] == address
        assert await rig.admin("GET", "/faults") == []
        told = await rig.call("describe_container_group_events", container_group_ids=json.dumps([group]))
        assert "SystemReboot" in {event["Reason"] for event in told["Data"][0]["Events"]}
    finally:
        await kill(process)


async def test_one_that_is_part_of_another_program_is_not_restarted(tmp_path):
    async with emulator(tmp_path):
        refused = await asyncio.to_thread(CliRunner().invoke, app, ["restart", "--state", str(tmp_path)])
        assert "is part of another program" in str(refused.exception)


async def test_another_network_is_refused(tmp_path):
    async with emulator(tmp_path) as rig:
        await rig.create(v_switch_id="vsw-b")
    with pytest.raises(ExceptionGroup) as refused:
        async with emulator(tmp_path, vswitches=(VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/24"),)):
            pass
    assert refused.group_contains(Misconfigured, match="vsw-b")


async def test_what_is_kept_is_for_its_owner_alone(tmp_path):
    async with emulator(tmp_path, access_key=AccessKey("generated", "")):
        pass
    for name in (DATABASE, "access-key-secret"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    secret = (tmp_path / "access-key-secret").read_text()
    assert len(secret) == 32
    assert secret not in (tmp_path / ENDPOINT).read_text()
    (tmp_path / "access-key-secret").chmod(0o644)
    with pytest.raises(ExceptionGroup) as refused:
        async with emulator(tmp_path, access_key=AccessKey("generated", "")):
            pass
    assert refused.group_contains(Misconfigured, match="chmod 600")


async def test_no_secret_is_logged(tmp_path, capfd):
    async with emulator(tmp_path) as rig:
        await rig.create()
        await rig.refused("create_container_group", container_group_name="X", container=[container()])
    told = capfd.readouterr()
    assert KEY.secret not in told.out + told.err
