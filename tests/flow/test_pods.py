"""What happens to a pod at awkward moments: the real parts, the simulated backend, a small apiserver."""

import asyncio
import contextlib
from collections import defaultdict

import msgspec
import pytest
from aiohttp import web
from kube_server import serving

from overspill.agent.admission import Admission
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
from overspill.model.observation import ContainerObservation, Gone, Observation, Running
from overspill.model.pods import Pod
from overspill.model.work import Identity

ROOM = {"cpu": "100", "memory": "100Gi", "pods": "100"}
OURS = "9"  # the version that our PATCHes make
NODE = NodeFacts(cluster="c", name="vn-0", ip="10.0.0.9", allocatable=ROOM)


class Backend(SimulatedBackend):
    """Whose lists are on the way for as long as `gate` is closed."""

    def __init__(self):
        super().__init__(cluster="c", node="vn-0", options={})
        self.taken = defaultdict(asyncio.Event)  # by the pod's uid
        self.gate = asyncio.Event()
        self.gate.set()

    async def create(self, work):
        await super().create(work)
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

    async def answer(self, request):
        name = request.path.split("/")[-1]
        if name == "events":
            self.told.append((await request.json())["reason"])
            return web.json_response({"metadata": {"name": name}})
        if request.method == "DELETE":
            self.removed.set()
        if request.method == "PATCH":
            self.patched.append(await request.json())
            return web.json_response({"metadata": {"resourceVersion": OURS, "generation": 1}})
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


def ready(patch):
    return next(each["status"] for each in patch["status"]["conditions"] if each["type"] == "Ready")
