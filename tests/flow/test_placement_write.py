"""The writer of pods, against a small apiserver: what it sends, and what it does when it comes too late."""

import asyncio
import contextlib
import json

import msgspec
import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill import names
from overspill.kube.cache import Cache, Key
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.placement.decide import Surroundings
from overspill.placement.managed import Managed
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.write import PodWriter

POLICY = {
    "metadata": {"name": "web", "namespace": "a"},
    "spec": {"targetRef": {"name": "web"}, "pools": [{"name": "base", "nodeSelector": {"p": "b"}}]},
}
KEY = Key("a", "p", "u")


class World:
    """One pod of one policy, the writer, and an apiserver that answers as it is told."""

    def __init__(self):
        self.patches = []
        self.answers = []
        self.arrived = asyncio.Event()
        self.pods = Cache()
        self.managed = Managed(msgspec.convert(POLICY, Policy))
        self.leads = True
        self.asked = asyncio.Event()
        self.refusals = []

    def see(self, version, *, labels=None, annotations=None, gated=True):
        """What the watch brings."""
        owner = {"kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": True}
        metadata = {
            "name": "p",
            "namespace": "a",
            "uid": "u",
            "resourceVersion": str(version),
            "ownerReferences": [owner],
        }
        metadata |= {"labels": labels} if labels else {}
        metadata |= {"annotations": annotations} if annotations else {}
        content = {"metadata": metadata, "spec": {"schedulingGates": [{"name": names.GATE}] if gated else []}}
        pod = msgspec.json.decode(json.dumps(content), type=Pod).kept()
        for key in self.pods.apply(Batch(replace=False, changes=[Change("MODIFIED", pod)])):
            self.managed.apply(pod, 0.0)
            self.writer.heard(key)

    async def handle(self, request):
        operations = await request.json()
        self.patches.append({each["path"]: each.get("value") for each in operations})
        answer = self.answers.pop(0) if self.answers else None
        self.arrived.set()
        return answer() if answer else web.json_response({"metadata": {}})

    async def patched(self, times):
        async with asyncio.timeout(20):
            while len(self.patches) < times:
                self.arrived.clear()
                await self.arrived.wait()

    # What the writer asks.

    def sure(self):
        self.asked.set()
        return self.leads

    def managed_of(self, uid):
        return self.managed

    def awaits_policy(self, pod):
        return False

    async def is_late(self, pod):
        return False

    def around(self, managed):
        return Surroundings()

    def refused(self, key, pool, refusal):
        self.refusals.append((key, pool, refusal.reason))
        self.arrived.set()


@pytest.fixture
async def world():
    made = World()
    async with (
        serving(made.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        events = Events(client, instance="test")
        made.writer = PodWriter(client, made.pods, made, events, sure=made.sure)
        task = asyncio.ensure_future(made.writer.queue.run())
        made.see(1)
        made.managed.look(Surroundings(), desired=1)
        yield made
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def version(patch):
    return patch["/metadata/resourceVersion"]


async def test_a_pod_is_placed_by_one_patch(world):
    world.writer.queue.add(KEY)
    await world.patched(1)
    assert world.patches[0]["/spec/nodeSelector"] == {"p": "b"}
    assert "/spec/schedulingGates" in world.patches[0]
    world.writer.queue.add(KEY)  # before the watch has brought it back
    labels = {names.POOL_LABEL: "base", names.POLICY_LABEL: "web"}
    annotations = {names.RANK_ANNOTATION: "1", names.DELETION_COST: "999999"}
    world.see(2, labels=labels, annotations=annotations, gated=False)
    world.see(3, labels=labels, annotations={**annotations, names.DELETION_COST: "5"}, gated=False)
    world.writer.queue.add(KEY)
    await world.patched(2)
    assert version(world.patches[1]) == "3", "a pod that is as it should be is not written"


async def test_what_came_too_late_is_sent_again_with_the_next_version(world):
    world.answers = [lambda: refusal(409, "Conflict")]
    world.writer.queue.add(KEY)
    await world.patched(1)
    world.see(2)
    await world.patched(2)
    assert [version(each) for each in world.patches] == ["1", "2"]


async def test_also_when_that_version_was_there_before_the_refusal(world):
    def newer_first():
        world.see(2)
        return refusal(409, "Conflict")

    world.answers = [newer_first]
    world.writer.queue.add(KEY)
    await world.patched(2)
    assert [version(each) for each in world.patches] == ["1", "2"]


async def test_a_patch_that_is_wrong_leads_to_another_pool(world):
    world.answers = [lambda: refusal(422, "Invalid", "spec.nodeSelector: Forbidden")]
    world.writer.queue.add(KEY)
    async with asyncio.timeout(20):
        while not world.refusals:
            world.arrived.clear()
            await world.arrived.wait()
    assert world.refusals == [(KEY, 0, "Refused")]


async def test_nothing_is_written_by_one_that_may_not_lead(world):
    world.leads = False
    world.writer.queue.add(KEY)
    async with asyncio.timeout(20):
        await world.asked.wait()
    assert world.patches == []
    world.leads = True
    await world.patched(1)  # its turn comes again


async def test_a_pod_of_a_policy_that_goes_is_released(world):
    policy = msgspec.structs.replace(
        world.managed.policy,
        metadata=msgspec.structs.replace(
            world.managed.policy.metadata, deletion_timestamp="2026-01-01T00:00:00Z"
        ),
    )
    world.managed.edit(policy)
    world.writer.queue.add(KEY)
    await world.patched(1)
    assert set(world.patches[0]) == {"/metadata/uid", "/metadata/resourceVersion", "/spec/schedulingGates"}
