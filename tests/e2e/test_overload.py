"""More than the account allows, on the ECI path: the queue stays in order, one bad pod harms none, thousands come and go.

One agent on a real control plane; the emulator simulates its container groups.
"""

import asyncio
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime

import pytest

from chaos.api import Api
from chaos.workload import ticks
from overspill.emulator.run import DATABASE
from overspill.emulator.store import read_bill
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(2700)]

OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")
NODE = "overload"
PODS = f"/api/v1/namespaces/{NODE}/pods"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
WAITING, WAIT = (
    f'overspill_quota_{name}{{backend="eci",budget="create"}}' for name in ("waiting", "wait_seconds")
)
SECRET = "overload-secret"
RATE, BURST = 5, 10
LATE = 40.0  # what the Lease says itself: then the node is taken for lost
SETTLED = 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Rig:
    """An emulator, and one agent with a budget of its own."""

    def __init__(self, cluster, folder, *, rate, burst):
        self.folder = folder
        self.health = f"127.0.0.1:{free_port()}"
        self.plan, self.paths = load_plan(cluster.name), cluster_paths(cluster.name)
        key = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "emulator", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET}
        serve = ["emulator", "serve", "--state", str(folder / "emulator"), "--unlimited-rate"]
        serve += ["--vswitch", "vsw-a=cn-hangzhou-h:10.64.0.0/18", "--engine-option", "log_seconds=0"]
        with (folder / "emulator.log").open("wb") as log:
            self._emulator = subprocess.Popen(
                [OVERSPILL, *serve],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OVERSPILL_EMULATOR_ACCESS_KEY_SECRET": SECRET},
            )
        self._emulator.stdout.readline()
        endpoint = json.loads((folder / "emulator" / "endpoint.json").read_text())["endpoint"]
        options = {"region": "cn-hangzhou", "vSwitchIds": "vsw-a", "endpoint": endpoint}
        options |= dict.fromkeys(("createRate", "deleteRate"), rate)
        options |= dict.fromkeys(("createBurst", "deleteBurst"), burst)
        command = [OVERSPILL, "agent", "--node-name", NODE, "--kubeconfig", str(self.paths.kubeconfig)]
        command += ["--backend", "eci", "--health-address", self.health, "--kubelet-address", "127.0.0.1:0"]
        command += ["--pods", "10000"]
        command += ["--kubelet-certificate", "self-signed"]
        command += [f"--backend-option={name}={value}" for name, value in options.items()]
        with (folder / "agent.log").open("wb") as log:
            self._agent = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **key})

    def end(self):
        for process in (self._agent, self._emulator):
            process.terminate()
            process.wait(30)
        self._emulator.stdout.close()

    def metric(self, series):
        """The value of one series, by how its line begins."""
        with urllib.request.urlopen(f"http://{self.health}/metrics", timeout=20) as reply:
            lines = reply.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series)), 0.0)

    def bill(self):
        return read_bill(self.folder / "emulator" / DATABASE)


@pytest.fixture
def rig(control_plane, tmp_path):
    """Make a rig; it ends with the test, its pods and its node as well."""
    made = []

    def rig(*, rate=RATE, burst=BURST):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NODE}}
        control_plane.apply(space)
        made.append(Rig(control_plane, tmp_path, rate=rate, burst=burst))
        return made[-1]

    yield rig
    try:
        # One request deletes for a minute at most.
        while json.loads(control_plane.kubectl("get", "--raw", f"{PODS}?limit=1"))["items"]:
            control_plane.kubectl("delete", "--raw", f"{PODS}?gracePeriodSeconds=0", check=False)
    finally:
        for each in made:
            each.end()
    control_plane.kubectl("delete", "node", NODE, "--ignore-not-found")


def pod(name, **annotations):
    notes = {f"k8s.aliyun.com/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": notes},
        "spec": {
            "nodeName": NODE,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "localhost/overspill/busybox:1"}],
        },
    }


async def until(check, *, seconds=SETTLED):
    """Look once a second until `check` is true."""
    async with asyncio.timeout(seconds):
        async for _ in ticks(1):
            if await check():
                return


async def prepared(api):
    """Wait for the namespace's account and the node."""

    async def there():
        nodes = {each["metadata"]["name"] for each in await api.items("/api/v1/nodes")}
        return NODE in nodes and await api.items(f"/api/v1/namespaces/{NODE}/serviceaccounts")

    await until(there)


async def create(api, names, *, per_second=0.0):
    """Create pods, at a pace or as fast as it goes."""
    began, left = time.monotonic(), iter(enumerate(names))

    async def work():
        for number, name in left:
            if per_second:
                await asyncio.sleep(began + number / per_second - time.monotonic())
            await api.ask("POST", PODS, pod(name))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(work())


async def delete(api, names):
    left = iter(names)

    async def work():
        for name in left:
            await api.ask("DELETE", f"{PODS}/{name}")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(work())


async def until_running(api, names, *, seconds=SETTLED):
    """Wait until all of these pods are Running."""
    wanted = set(names)

    async def running():
        found = await api.items(PODS)
        return wanted <= {each["metadata"]["name"] for each in found if each["status"]["phase"] == "Running"}

    await until(running, seconds=seconds)


@pytest.mark.parametrize("seconds", [12, 600])
async def test_three_times_the_quota(rig, control_plane, seconds):
    """Queues are bounded, the oldest goes first, the wait is told, the Lease is never late."""
    here = rig()
    async with Api(here.plan.endpoint, here.paths.pki) as api:
        await prepared(api)
        names = [f"web-{number:05d}" for number in range(3 * RATE * seconds)]
        waiting, waits, ages = [], [], []

        async def look():
            async for _ in ticks(1):
                waiting.append(await asyncio.to_thread(here.metric, WAITING))
                waits.append(await asyncio.to_thread(here.metric, WAIT))
                renewed = (await api.ask("GET", LEASE))["spec"]["renewTime"]
                ages.append(time.time() - datetime.fromisoformat(renewed).timestamp())

        looking = asyncio.ensure_future(look())
        try:
            await create(api, names, per_second=3 * RATE)
            await until_running(api, names, seconds=SETTLED + len(names) / RATE)
        finally:
            looking.cancel()
        assert 0 < max(waiting) <= len(names)
        assert max(waits) > 2
        assert max(ages) < LATE
        order = [line.tags["overspill.dev/pod"] for line in here.bill()]
        rank = {name: number for number, name in enumerate(names)}
        moved = [abs(rank[name] - number) for number, name in enumerate(order)]
        assert sorted(order) == names
        assert max(moved) < 64, "a pod was served before many that were older"


async def test_a_pod_that_always_fails_slows_no_other(rig, control_plane):
    """A dozen pods name a vSwitch that is not there; others come beside them, and after."""
    here = rig(rate=20, burst=100)
    async with Api(here.plan.endpoint, here.paths.pki) as api:
        await prepared(api)
        for number in range(12):
            await api.ask("POST", PODS, pod(f"poisoned-{number}", eci_vswitch="vsw-nonesuch"))
        names = [f"web-{number}" for number in range(60)]
        await create(api, names)
        await until_running(api, names)
        poisoned = [each for each in await api.items(PODS) if each["metadata"]["name"] not in names]
        told = {
            (each["status"]["phase"], condition["reason"])
            for each in poisoned
            for condition in each["status"].get("conditions", ())
            if condition["type"] == "InstanceProvisioned"
        }
        assert told == {("Pending", "Refused")}
        assert len(here.bill()) == len(names)
        await delete(api, [each["metadata"]["name"] for each in poisoned])

        async def gone():
            return len(await api.items(PODS)) == len(names)

        await until(gone)


@pytest.mark.parametrize("count", [200, 2000])
async def test_as_many_pods_come_as_go(rig, control_plane, count):
    here = rig(rate=100_000, burst=100_000)
    async with Api(here.plan.endpoint, here.paths.pki) as api:
        await prepared(api)
        old = [f"old-{number}" for number in range(count)]
        new = [f"new-{number}" for number in range(count)]
        await create(api, old)
        await until_running(api, old, seconds=SETTLED + count / 10)
        random.Random(1).shuffle(old)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(delete(api, old))
            tasks.create_task(create(api, new))
        await until_running(api, new, seconds=SETTLED + count / 10)

        async def gone():
            left = [line for line in here.bill() if not line.ended]
            return len(await api.items(PODS)) == len(left) == count

        await until(gone)
        lines = here.bill()
        assert len(lines) == 2 * count, "a pod had more than one group"
        assert {line.tags["overspill.dev/pod"] for line in lines if not line.ended} == set(new)
