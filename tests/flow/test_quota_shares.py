"""Three agents on one account of the emulator, with its default limits; they know of each other by their Leases."""

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from emulators import KEY, emulator, until
from kube_server import refusal, serving

from overspill.agent.sharing import Sharing
from overspill.backends.eci.backend import EciBackend
from overspill.emulator.quotas import RATES
from overspill.kube import lease as lease_module
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.lease import NodeLease
from overspill.model.work import Container, Identity, WorkSpec

NODES = ("vn-0", "vn-1", "vn-2")
# Unequal, and together beyond the burst of 100.
PODS = {"vn-0": 120, "vn-1": 50, "vn-2": 30}
pytestmark = pytest.mark.timeout(120)


class Leases:
    """Leases as the apiserver keeps them, and a listing by label."""

    def __init__(self):
        self.stored = {}
        self.version = 0

    async def handle(self, request):
        name = request.path.rpartition("/leases")[2].removeprefix("/")
        if request.method == "GET" and not name:
            key, _, value = request.query["labelSelector"].partition("=")
            items = [each for each in self.stored.values() if each["metadata"]["labels"].get(key) == value]
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        if request.method == "GET":
            found = self.stored.get(name)
            return web.json_response(found) if found else refusal(404, "NotFound")
        body = await request.json()
        self.version += 1
        if request.method == "PATCH":
            return web.json_response(self.stored[name])
        body["metadata"]["resourceVersion"] = str(self.version)
        self.stored[body["metadata"]["name"]] = body
        return web.json_response(body)


def pod(node, number):
    identity = Identity("cluster", node, "default", f"{node}-{number}", f"{node}-{number}-uid", 0)
    return WorkSpec(identity=identity, hostname="pod", containers=(Container("main", "example.org/app:1"),))


@contextlib.asynccontextmanager
async def agent(url, rig, node):
    """The parts of an agent that share a quota."""
    options = {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
        "securityGroupIds": rig.endpoint.security_group_id,
    }
    backend = EciBackend(cluster="cluster", node=node, options=options)
    async with Client(Config(server=url, credentials=FileCredentials())) as client:
        lease = NodeLease(client, node, holder=f"{node}/uid")
        sharing = Sharing(client, lease, backend)
        await lease.acquire()
        await sharing.read()
        async with backend, asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(lease.run()), tasks.create_task(sharing.run())]
            yield backend, sharing
            for task in running:
                task.cancel()


async def test_three_agents_stay_within_the_quota_of_one_account(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 1.0)  # so that several pass while the pods are made
    leases = Leases()
    async with contextlib.AsyncExitStack() as stack:
        rig = await stack.enter_async_context(emulator(tmp_path, rates=RATES))
        url = await stack.enter_async_context(serving(leases.handle))
        agents = {node: await stack.enter_async_context(agent(url, rig, node)) for node in NODES}
        for _, sharing in agents.values():
            await sharing.read()  # as each does from time to time: all are there now
        fair = [backend.share.fair for backend, _ in agents.values()]
        assert fair == pytest.approx([1 / 3] * 3)
        began = time.monotonic()
        for node, count in PODS.items():
            for number in range(count):
                await agents[node][0].create(pod(node, number))

        async def calls():
            return (await rig.admin("GET", "/status"))["calls"].get("CreateContainerGroup")

        await until(calls, "the first call to arrive")
        # The agents' buckets fill from the first call that they send, the emulator's from the first that it gets.
        ahead = RATES["CreateContainerGroup"].per_second * (time.monotonic() - began)
        most = {}

        async def all_run():
            for node, (backend, _) in agents.items():
                most[node] = max(most.get(node, 0.0), backend.share.rates["create"])
            found = await rig.admin("GET", "/status")
            return found if found["groups"].get("Running") == sum(PODS.values()) else None

        found = await until(all_run, "every pod to run")
        # The rest were throttled.
        assert found["calls"]["CreateContainerGroup"] <= sum(PODS.values()) + 5 + ahead
        # Who has more to do got more than an equal part.
        assert most["vn-0"] > 0.4
