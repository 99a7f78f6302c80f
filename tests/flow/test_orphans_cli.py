"""`overspill orphans` against an emulator's groups and a small apiserver's pods, as the command that users run."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from emulators import emulator
from kube_server import serving
from orphans_world import eci_options, orphan_world

OVERSPILL = str(Path(sys.executable).parent / "overspill")


class Shell:
    """Runs the command with a settings file of the agents."""

    def __init__(self, folder: Path, url: str, options: dict[str, str]) -> None:
        self._folder = folder
        named = {"name": "it"}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": url}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        agents = {"backend": "eci", "backendOptions": options, "pods": 100}
        (folder / "agent.yaml").write_text(yaml.safe_dump(agents))

    async def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        flags = (
            "--config",
            str(self._folder / "agent.yaml"),
            "--kubeconfig",
            str(self._folder / "kubeconfig"),
        )
        return await asyncio.to_thread(
            subprocess.run,
            [OVERSPILL, "orphans", *args, *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with emulator(tmp_path / "emulator") as rig, orphan_world(rig, monkeypatch) as made:
        yield made


@pytest.fixture
async def overspill(world, tmp_path):
    async with serving(world.kube.handle) as url:
        yield Shell(tmp_path, url, eci_options(world.rig))


async def test_a_list_shows_what_has_lost_its_pod_and_what_it_costs(world, overspill):
    owned, orphan = await world.group(world.kube.pod("owned")), await world.orphan("lost")
    await world.rig.until_status(orphan, "Running")
    done = await overspill("list")
    assert done.returncode == 0, done.stderr
    head, line = done.stdout.splitlines()
    assert head.split() == ["GROUP", "STATE", "NAMESPACE", "POD", "NODE", "STATUS", "AGE", "PRICE/H"]
    assert line.split()[:6] == [orphan, "Orphan", "default", "lost", "vn-0", "Running"]
    assert line.split()[-1] == "CNY"
    assert "1 owned, 1 orphan; orphans cost" in done.stderr
    everything = json.loads((await overspill("list", "-A", "-o", "json")).stdout)
    assert {each["group"]: each["state"] for each in everything} == {owned: "Owned", orphan: "Orphan"}


async def test_nothing_is_deleted_without_being_asked_for(world, overspill):
    owned, orphan = await world.group(world.kube.pod("owned")), await world.orphan()
    for args in (("delete",), ("delete", "--dry-run")):
        done = await overspill(*args)
        assert (done.returncode, orphan in done.stdout) == (0, True), done.stderr
    assert await world.groups() == {owned, orphan}
    assert (await overspill("delete", "--yes", "--dry-run")).returncode == 2
    done = await overspill("delete", "--yes")
    assert (done.returncode, f"containergroup {orphan} deleted" in done.stdout) == (0, True), done.stderr
    assert await world.groups() == {owned}
    done = await overspill("delete", "--yes")
    assert (done.returncode, done.stdout, "No orphans." in done.stderr) == (0, "", True)


async def test_what_is_too_much_to_be_true_needs_force(world, overspill):
    group = await world.group(world.kube.pod("owned"))
    world.kube.pods.clear()
    done = await overspill("delete", "--yes")
    assert done.returncode == 1
    assert "the apiserver has no pod at all" in done.stderr
    assert await world.groups() == {group}
    assert (await overspill("delete", "--yes", "--force")).returncode == 0
    assert await world.groups() == set()


async def test_what_cannot_be_listed_or_deleted_is_an_error(world, overspill):
    orphan = await world.orphan()
    fault = {"kind": "error", "status": 400, "code": "NoPermission", "actions": ["DeleteContainerGroup"]}
    await world.rig.admin("POST", "/faults", fault)
    done = await overspill("delete", "--yes")
    assert (done.returncode, f"error: containergroup {orphan}" in done.stderr) == (1, True), done.stderr
    await world.rig.admin("DELETE", "/faults")
    world.kube.refused = "pods"
    done = await overspill("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error:")
    assert await world.groups() == {orphan}


@pytest.mark.parametrize(
    ("flags", "said"),
    [((), "which backend do the agents use"), (("--backend=nonesuch",), "unknown backend 'nonesuch'")],
)
async def test_a_backend_has_to_be_named(flags, said):
    done = await asyncio.to_thread(
        subprocess.run, [OVERSPILL, "orphans", "list", *flags], capture_output=True, text=True, check=False
    )
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


async def test_simulated_pods_leave_no_orphans(overspill):
    done = await overspill("list", "--backend=simulated")
    assert (done.returncode, "there are no orphans" in done.stderr) == (1, True), done.stderr
