"""What happens to a pod at awkward moments: the real parts, the simulated backend, a small apiserver."""

import asyncio
import contextlib
import time
from collections import defaultdict
from unittest.mock import AsyncMock

import msgspec
import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.agent import pods as pods_module
from overspill.agent.admission import Admission
from overspill.agent.deadline import PATIENCE
from overspill.agent.pods import Pods
from overspill.agent.scope import NodeFacts
from overspill.agent.sources import Sources
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.kube.write import StatusWriter
from overspill.model.observation import (
    ContainerObservation,
    Gone,
    Observation,
    Running,
    Terminated,
    Waiting,
)
from overspill.model.pods import Pod
from overspill.model.podstatus import timestamp
from overspill.model.work import Container, Identity, WorkSpec

ROOM = {"cpu": "100", "memory": "100Gi", "pods": "100"}
OURS = "9"  # the version that our PATCHes make
NODE = NodeFacts(cluster="c", name="vn-0", ip="10.0.0.9", allocatable=ROOM)


class Backend(SimulatedBackend):
    """Whose lists are on the way for as long as `gate` is closed."""

    def __init__(self):
        super().__init__(cluster="c", node="vn-0", options={})
        self.taken = defaultdict(asyncio.Event)  # by the pod's uid
        self.given = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def create(self, work):
        await super().create(work)
        self.given[work.identity.uid] = work
        self.taken[work.identity.uid].set()

    async def list(self):
        listed = await super().list()
        await self.gate.wait()
        return listed


class World:
    """An agent's pods; its apiserver keeps whoever asks for Services waiting while `gate` is closed."""

    def __init__(self):
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.removed = asyncio.Event()
        self.patched, self.told = [], []
        self.status = {}  # of the pod that is asked for
        self.sure = True
        self.refusals = {}  # by the path's end: what is answered, and how often

    async def answer(self, request):
        name = request.path.split("/")[-1]
        for end, answers in self.refusals.items():
            if request.path.endswith(end) and answers:
                return refusal(*answers.pop())
        if name == "events":
            self.told.append((await request.json())["reason"])
            return web.json_response({"metadata": {"name": name}})
        if request.method == "DELETE":
            self.removed.set()
        if request.method == "PATCH":
            self.patched.append(await request.json())
            return web.json_response({"metadata": {"resourceVersion": OURS, "generation": 1}})
        if name == "pods":
            return web.json_response({"metadata": {}, "items": [{"status": self.status}]})
        if name == "token":
            return web.json_response({"status": {"token": "t"}})
        self.asked.set()
        await self.gate.wait()
        return web.json_response({"items": [], "metadata": {"name": name}})

    @contextlib.asynccontextmanager
    async def running(self):
        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(self.answer))
            client = await stack.enter_async_context(
                Client(Config(server=url, credentials=FileCredentials()))
            )
            self.backend = await stack.enter_async_context(Backend())
            self.writer = StatusWriter(client)
            self.events = Events(client, instance="vn-0")
            self.pods = Pods(
                client=client,
                backend=self.backend,
                writer=self.writer,
                events=self.events,
                sources=Sources(client),
                sure=lambda: self.sure,
                admission=Admission(
                    node_name="vn-0", labels={}, allocatable=ROOM, capabilities=self.backend.capabilities
                ),
                node=NODE,
                workers=1,  # a key that is due again comes before what was added later
            )
            await stack.enter_async_context(asyncio.timeout(20))
            async with asyncio.TaskGroup() as tasks:
                parts = (self.pods.queue, self.writer, self.events)
                running = [tasks.create_task(part.run()) for part in parts]
                yield
                for task in running:
                    task.cancel()

    def tell(self, *changes, replace=False):
        self.pods.changed(Batch(replace, [Change(kind, pod) for kind, pod in changes]))

    async def at_backend(self):
        return [
            (seen.identity.uid, seen.identity.attempt, seen.deleting)
            for seen in await SimulatedBackend.list(self.backend)
        ]

    async def worked_off(self):
        """All that is due by now is done: the one worker has got as far as another pod."""
        self.tell(("ADDED", pod("last")))
        await self.backend.taken["last"].wait()
        return [found for found in await self.at_backend() if found[0] != "last"]

    async def begin(self):
        """A pod is on its way to the backend, and waits for the apiserver."""
        self.gate.clear()
        self.tell(("ADDED", pod("web")), replace=True)
        await self.asked.wait()

    async def arrive(self):
        """It is recorded, and its sightings are still on their way."""
        self.gate.set()
        await self.backend.taken["web"].wait()


def pod(name, version=1, *, spec=None, status=None, **metadata):
    meta = {
        "name": name,
        "namespace": "shop",
        "uid": name,
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    made = {
        "metadata": meta | metadata,
        "spec": {"containers": [{"name": "main", "image": "i"}]} | (spec or {}),
        "status": status or {},
    }
    return msgspec.json.decode(msgspec.json.encode(made), type=Pod).kept()


async def test_a_pod_that_is_labelled_while_it_is_being_made_is_made_once():
    world = World()
    async with world.running():
        await world.begin()
        world.tell(("MODIFIED", pod("web", 2, labels={"team": "a"})))
        await world.arrive()
        assert await world.worked_off() == [("web", 0, False)]


async def test_a_pod_that_is_deleted_while_it_is_being_made_is_removed_once_its_group_is_gone():
    world = World()
    async with world.running():
        watched = world.backend.watch()
        await world.begin()
        leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
        world.tell(("MODIFIED", pod("web", 2, **leaving)))
        await world.arrive()
        await world.worked_off()
        assert not world.removed.is_set()
        async for batch in watched:
            world.pods.sighted(batch)
            if any(isinstance(sighting, Gone) for sighting in batch):
                break
        await world.removed.wait()


async def test_a_pod_that_is_made_while_the_backend_lists_is_not_taken_for_gone():
    world = World()
    async with world.running():
        await world.begin()
        world.backend.gate.clear()
        listing = asyncio.create_task(world.pods.relist())
        await asyncio.sleep(0)
        await world.arrive()
        world.backend.gate.set()
        await listing
        assert await world.worked_off() == [("web", 0, False)]


async def test_what_others_change_counts_also_if_our_own_write_comes_back_with_it():
    """Their event is not the newest of the batch, and ours is."""
    world = World()
    gated = {"readinessGates": [{"conditionType": "example.com/open"}]}
    opened = {"phase": "Running", "conditions": [{"type": "example.com/open", "status": "True"}]}
    async with world.running():
        watched = world.backend.watch()
        world.tell(("ADDED", pod("web", spec=gated)), replace=True)
        key = next(iter(world.pods.cache))
        await world.arrive()
        world.pods.sighted(await anext(watched))
        await world.writer.flush(key)
        assert ready(world.patched[-1]) == "False"
        both = [("MODIFIED", pod("web", version, spec=gated, status=opened)) for version in (8, OURS)]
        world.tell(*both)
        await world.worked_off()
        await world.writer.flush(key)
    assert ready(world.patched[-1]) == "True"


TOKEN = {
    "serviceAccountName": "default",
    "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
}


@pytest.mark.parametrize(
    "message", ["not yet ready to handle request", "admission webhook denied the request: try later"]
)
async def test_a_pod_whose_token_is_refused_once_is_made_later(message):
    world = World()
    world.refusals = {"/token": [(403, "Forbidden", message)]}
    async with world.running():
        world.tell(("ADDED", pod("web", spec=TOKEN)), replace=True)
        await world.arrive()
        assert await world.worked_off() == [("web", 0, False)]


async def test_a_deleted_pod_whose_status_cannot_be_written_holds_no_worker():
    world = World()
    world.refusals = {"/web/status": [(500, "InternalError", "failed calling webhook")] * 100}
    job = [{"kind": "Job", "name": "j", "uid": "j", "apiVersion": "batch/v1"}]
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}
    async with world.running():
        world.tell(("ADDED", pod("web", ownerReferences=job, **leaving)), replace=True)
        await world.worked_off()
        assert not world.removed.is_set()
        world.refusals = {}
        await world.removed.wait()
    assert [patch["status"]["phase"] for patch in world.patched if patch["metadata"]["uid"] == "web"] == [
        "Failed"
    ]


async def test_a_pod_starts_once_and_its_deadline_counts_from_there():
    """It waited for a Secret, or its group was lost."""
    world = World()
    started = timestamp(time.time() - 550)
    late = pod("web", spec={"activeDeadlineSeconds": 600}, status={"phase": "Pending", "startTime": started})
    async with world.running():
        watched = world.backend.watch()
        world.tell(("ADDED", late), replace=True)
        await world.arrive()
        world.pods.sighted(await anext(watched))
        key = next(iter(world.pods.cache))
        await world.writer.flush(key)
        assert 40 < world.backend.given["web"].active_deadline_seconds <= 51
        assert await world.pods.reconcile(key) < 50 + PATIENCE + 1
    assert world.patched[-1]["status"]["startTime"] == started


async def test_a_deadline_counts_from_the_start_that_is_told_however_late_the_backend_began():
    """The pod waited at the backend, or the agent was restarted since."""
    world = World()
    started = timestamp(time.time() - 550)
    late = pod("web", spec={"activeDeadlineSeconds": 600}, status={"phase": "Running", "startTime": started})
    running = ContainerObservation("main", Running(time.time()), "i")
    async with world.running():
        world.tell(("ADDED", late), replace=True)
        key = next(iter(world.pods.cache))
        world.pods.sighted(
            [Observation(Identity("c", "vn-0", "shop", "web", "web"), time.time(), (running,))]
        )
        assert 45 + PATIENCE < await world.pods.reconcile(key) < 51 + PATIENCE


async def test_the_last_status_of_a_pod_keeps_its_start():
    world = World()
    started = "2026-01-01T00:00:00Z"
    status = {"phase": "Running", "startTime": started}
    async with world.running():
        leaving = {"deletionTimestamp": "2026-01-02T00:00:00Z", "deletionGracePeriodSeconds": 0}
        world.tell(("ADDED", pod("web", status=status, finalizers=["x/y"], **leaving)), replace=True)
        await world.removed.wait()
    assert world.patched[-1]["status"]["startTime"] == started


@pytest.mark.parametrize(("exit_code", "at_backend"), [(0, []), (1, [("web", 0, False)])])
async def test_a_lost_pod_of_which_a_container_had_succeeded_is_not_made_again(exit_code, at_backend):
    """By an agent that has never seen it."""
    world = World()
    spec = {"restartPolicy": "OnFailure"}
    world.status = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "main", "state": {"terminated": {"exitCode": exit_code}}},
            {"name": "other", "state": {"running": {}}},
        ],
    }
    async with world.running():
        world.tell(("ADDED", pod("web", spec=spec, status=world.status)), replace=True)
        assert await world.worked_off() == at_backend
        await world.events.flush()
    assert ("ContainersLost" in world.told) == (not at_backend)


async def test_a_pod_whose_end_is_told_together_with_its_loss_ends_as_it_did():
    world = World()
    who = Identity("c", "vn-0", "shop", "web", "web")
    ended = ContainerObservation("main", Terminated(0, "Completed", 1.0, 2.0), "i")
    status = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}
    async with world.running():
        world.tell(("ADDED", pod("web", spec={"restartPolicy": "OnFailure"}, status=status)), replace=True)
        key = next(iter(world.pods.cache))
        last = Observation(who, 1.0, (ended,), annotations={"overspill.dev/cost": "7"})
        world.pods.sighted([last, Gone(who, last)])
        assert await world.worked_off() == []
        await world.writer.flush(key)
        await world.events.flush()
    [patch] = [each for each in world.patched if each["metadata"]["uid"] == "web"]
    assert patch["metadata"]["annotations"] == last.annotations
    assert (patch["status"]["phase"], "reason" in patch["status"]) == ("Succeeded", False)
    assert "ContainersLost" not in world.told


TOLD = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
TAKEN = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


@pytest.mark.parametrize(
    ("version", "status", "replace", "patches"),
    [
        pytest.param(10, TOLD, False, 1, id="labels alone"),
        pytest.param(10, TAKEN, False, 2, id="Ready taken from a node that was not heard"),
        pytest.param(5, {}, True, 2, id="etcd restored"),
    ],
)
async def test_a_status_is_written_again_when_somebody_else_wrote_another(version, status, replace, patches):
    world = World()
    async with world.running():
        watched = world.backend.watch()
        world.tell(("ADDED", pod("web")), replace=True)
        key = next(iter(world.pods.cache))
        await world.arrive()
        world.pods.sighted(await anext(watched))
        await world.writer.flush(key)
        world.tell(("MODIFIED", pod("web", OURS, status=TOLD)))
        change = "ADDED" if replace else "MODIFIED"
        world.tell((change, pod("web", version, status=status, labels={"team": "a"})), replace=replace)
        await world.worked_off()
        await world.writer.flush(key)
    assert [ready(patch) for patch in world.patched] == ["True"] * patches


@pytest.mark.parametrize(("phase", "told"), [("Pending", ["Started"]), ("Running", [])])
async def test_what_an_earlier_agent_has_told_of_is_not_told_again(phase, told):
    world = World()
    running = ContainerObservation("main", Running(1.0), "i")
    async with world.running():
        world.tell(("ADDED", pod("web", status={"phase": phase})), replace=True)
        world.pods.sighted([Observation(Identity("c", "vn-0", "shop", "web", "web"), 1.0, (running,))])
        await world.events.flush()
    assert world.told == told


async def test_the_status_of_a_pod_that_the_backend_cannot_tell_of_stays_as_it_is():
    world = World()
    who = Identity("c", "vn-0", "shop", "web", "web")
    waits = ContainerObservation("main", Waiting("ContainerCreating"), "i")
    running = ContainerObservation("main", Running(1.0), "i")
    async with world.running():
        world.tell(("ADDED", pod("web", status={"phase": "Running"})), replace=True)
        key = next(iter(world.pods.cache))
        world.pods.sighted([Observation(who, 1.0, (waits,), unknown=True)])
        assert await world.pods.reconcile(key) is None
        await world.writer.flush(key)
        assert world.patched == []
        world.pods.sighted([Observation(who, 1.0, (running,))])
        await world.writer.flush(key)
        await world.events.flush()
    assert [patch["status"]["phase"] for patch in world.patched] == ["Running"]
    assert world.told == []


async def test_an_ended_pod_that_the_backend_can_tell_of_again_is_stopped_if_it_runs():
    world = World()
    who = Identity("c", "vn-0", "shop", "web", "web")
    running = ContainerObservation("main", Running(1.0), "i")
    async with world.running():
        world.backend.delete = AsyncMock()
        world.tell(("ADDED", pod("web", status={"phase": "Failed"})), replace=True)
        world.pods.sighted([Observation(who, 1.0, (), unknown=True)])
        await world.worked_off()
        world.backend.delete.assert_not_called()
        world.pods.sighted([Observation(who, 1.0, (running,))])
        world.tell(("ADDED", pod("later")))
        await world.backend.taken["later"].wait()
        world.backend.delete.assert_awaited_once_with(who, grace_seconds=2)


async def test_a_pod_that_was_declared_failed_before_it_began_is_stopped_when_it_does():
    world = World()
    who = Identity("c", "vn-0", "shop", "web", "web")
    starting, running = (ContainerObservation("main", state, "i") for state in (Waiting(""), Running(1.0)))
    async with world.running():
        world.backend.delete = AsyncMock()
        world.pods.sighted([Observation(who, 1.0, (starting,))])
        world.tell(("ADDED", pod("web", status={"phase": "Failed"})), replace=True)
        await world.worked_off()
        world.backend.delete.assert_not_called()
        world.pods.sighted([Observation(who, 1.0, (running,))])
        world.tell(("ADDED", pod("later")))
        await world.backend.taken["later"].wait()
        world.backend.delete.assert_awaited_once_with(who, grace_seconds=2)


def ready(patch):
    return next(each["status"] for each in patch["status"]["conditions"] if each["type"] == "Ready")


async def test_an_agent_that_is_not_sure_of_its_node_ends_no_pod_that_it_has_not_heard_of(monkeypatch):
    """Cut off from the apiserver, but not from its backend, it sees its successor's pods there."""
    monkeypatch.setattr(pods_module, "UNSURE_PAUSE", 0.05)
    world = World()
    world.sure = False
    async with world.running():
        world.tell(("ADDED", pod("known")), replace=True)
        await world.backend.taken["known"].wait()
        who = Identity("c", "vn-0", "shop", "theirs", "theirs")
        theirs = WorkSpec(identity=who, hostname="theirs", containers=(Container("main", "i"),))
        await SimulatedBackend.create(world.backend, theirs)
        world.pods.sighted([Observation(theirs.identity, time.time(), ())])
        assert ("theirs", 0, False) in await world.worked_off()
        world.tell(("MODIFIED", pod("known", 2, deletionTimestamp="2026-01-02T00:00:00Z")))
        while ("known", 0, False) in await world.at_backend():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)
        assert ("theirs", 0, False) in await world.at_backend()
        world.sure = True
        while ("theirs", 0, False) in await world.at_backend():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


async def test_a_pod_that_ran_and_is_lost_is_not_ready_and_keeps_what_its_containers_told():
    world = World()
    world.status = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}
    async with world.running():
        world.tell(("ADDED", pod("web", spec={"restartPolicy": "Never"}, status=world.status)), replace=True)
        await world.worked_off()
        await world.writer.flush(next(key for key in world.pods.cache if key.uid == "web"))
    lost = next(each["status"] for each in world.patched if each["status"].get("reason") == "ContainersLost")
    assert "containerStatuses" not in lost
    ready = {each["type"]: (each["status"], each["reason"]) for each in lost["conditions"]}
    assert ready == dict.fromkeys(("Ready", "ContainersReady"), ("False", "PodFailed"))


@pytest.mark.parametrize("more", [{}, {"activeDeadlineSeconds": 600}])
async def test_a_pod_of_a_later_kubernetes_is_told_why_it_waits(more):
    """Its spec has a word that cannot be decoded."""
    world = World()
    async with world.running():
        world.tell(("ADDED", pod("web", spec={"restartPolicy": "Sometimes", **more})), replace=True)
        await world.worked_off()
        await world.writer.flush(next(key for key in world.pods.cache if key.uid == "web"))
        await world.events.flush()
    (told,) = (each["status"] for each in world.patched if each["metadata"]["uid"] == "web")
    conditions = {each["type"]: each["message"] for each in told["conditions"]}
    assert "not understood" in conditions["PodReadyToStartContainers"]
