"""The steps of one pod that Podman refuses, or that something overtakes, against a Podman of a few answers."""

import asyncio

import pytest
from msgspec import structs

from overspill.backends.podman.api import (
    ContainerInspect,
    Image,
    InspectConfig,
    InspectNetwork,
    InspectNetworks,
    InspectState,
    ListedPod,
)
from overspill.backends.podman.client import PodmanError
from overspill.backends.podman.hooks import Hooks
from overspill.backends.podman.node import Node
from overspill.backends.podman.plan import CreateRun, Pull, Wait, next_step
from overspill.backends.podman.steps import Steps
from overspill.model.work import Container, Identity, WorkSpec

WHO = Identity("c", "vn-0", "shop", "web", "uid-1")
INFRA = ContainerInspect(
    "infra",
    "infra",
    InspectState("running"),
    network_settings=InspectNetworks({"n": InspectNetwork("10.0.0.2")}),
)


class Podman:
    """It has the image and the sandbox, makes containers, and refuses one call."""

    def __init__(self, refused=""):
        self.refused = refused
        self.made = None

    def _refuse(self, call):
        if call == self.refused:
            raise PodmanError("no matching entries in passwd file")

    async def pod(self, name):
        return ListedPod("pod", name, infra_id="infra")

    async def image(self, reference):
        return Image("id")

    async def create_container(self, body):
        self._refuse("create")
        self.made = ContainerInspect(
            "run", body["name"], InspectState("created"), config=InspectConfig(body["labels"])
        )
        return "run"

    async def inspect(self, container):
        return INFRA if container == "infra" else self.made

    async def start(self, container):
        self._refuse("start")

    async def remove_container(self, container):
        self.made = None


class Stage:
    """One pod and its steps."""

    def __init__(self, tmp_path, podman):
        self.now = 100.0
        self.node = Node(podman, cluster="c", node="vn-0", network="n", root=tmp_path, clock=lambda: self.now)
        self.node.add(WorkSpec(identity=WHO, containers=(Container("main", "old"),), hostname="web"))
        self.supervisor = self.node.find(WHO)
        self.pod = self.supervisor.pod
        self.steps = Steps(self.node, self.pod, Hooks(self.node, self.pod))

    def next(self):
        return next_step(self.pod.work, self.pod.seen, self.now)

    async def until(self, kind):
        """Take steps until the next is of a kind."""
        await self.pod.find_sandbox(self.node.podman)
        while not isinstance(step := self.next(), kind):
            await self.steps.take(step)
        return step


@pytest.mark.parametrize("refused", ["create", "start"])
async def test_what_podman_refuses_is_tried_less_and_less_often(tmp_path, refused):
    stage = Stage(tmp_path, Podman(refused))
    delays = []
    for _ in range(8):
        await stage.until(Wait)
        delays.append(stage.pod.troubles["main"].delay)
        stage.now += delays[-1]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    stage.node.podman.refused = ""
    stage.now += 60
    await stage.steps.take(await stage.until(CreateRun))
    await stage.steps.take(stage.next())
    assert stage.pod.troubles == {}


async def test_an_image_that_changes_while_its_container_waits_for_its_turn_is_not_run(tmp_path):
    stage = Stage(tmp_path, Podman())
    step = await stage.until(CreateRun)
    stage.node.slots = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        group.create_task(stage.steps.take(step))
        await asyncio.sleep(0)
        stage.supervisor.change_images({"main": "new"})
        stage.node.slots.release()
    assert stage.node.podman.made is None
    assert stage.next() == Pull(Container("main", "new"), 0)


async def test_what_is_noticed_while_podman_answers_is_looked_at_again(tmp_path):
    """Its answer is of before: the container has ended meanwhile."""

    class Late(Podman):
        async def inspect(self, container):
            found = await super().inspect(container)
            if container == "run" and found.state.status == "running":
                self.made = structs.replace(found, state=InspectState("exited"))
                stage.pod.notice(["run"])
            return found

    stage = Stage(tmp_path, Late())
    await stage.steps.take(await stage.until(CreateRun))
    stage.node.podman.made = structs.replace(stage.node.podman.made, state=InspectState("running"))
    stage.pod.notice(["run"])
    await stage.pod.look(stage.node.podman)
    assert stage.pod.runs["run"].state == "exited"
