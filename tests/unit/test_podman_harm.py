"""No pod ends its agent: what its probes, hooks, steps and disks come to is that pod's alone."""

import asyncio
import os
import time
from unittest.mock import AsyncMock

import pytest
from msgspec import structs

from overspill.backends.podman import plan
from overspill.backends.podman.api import (
    ContainerInspect,
    Info,
    InspectConfig,
    InspectState,
    ListedContainer,
    ListedPod,
)
from overspill.backends.podman.client import PodmanError
from overspill.backends.podman.eviction import enforce_once
from overspill.backends.podman.folder import Folder, Record
from overspill.backends.podman.hooks import Hooks
from overspill.backends.podman.node import Node
from overspill.backends.podman.prober import Prober
from overspill.backends.podman.seen import Deletion, Run, Sandbox
from overspill.backends.podman.tags import CONTAINER_LABEL, RUN_LABEL, labels, pod_name
from overspill.backends.podman.trees import disk_usage
from overspill.backends.podman.volumes import prepare
from overspill.errors import Retry
from overspill.model.observation import Happened, Running
from overspill.model.work import (
    Container,
    EmptyDir,
    HttpGetAction,
    Identity,
    Probe,
    TcpSocketAction,
    WorkSpec,
)

RUN = Run("r", "main", 0, "running")


@pytest.fixture
def node(tmp_path):
    """Without a Podman: nothing here asks for it."""
    return node_of(None, tmp_path)


def node_of(podman, tmp_path):
    return Node(podman, cluster="c", node="vn-0", network="n", root=tmp_path / "pods", clock=time.time)


def who(name):
    return Identity("c", "vn-0", "shop", name, name)


def work(name, container=None, **more):
    containers = (container or Container("main", "i"),)
    return WorkSpec(identity=who(name), containers=containers, hostname=name, **more)


def add(node, name="web", *, container=None, **more):
    """A pod that is looked after by nobody; returns its supervisor."""
    node.add(work(name, container, **more))
    supervisor = node.find(who(name))
    supervisor.pod.runs[RUN.id] = RUN
    return supervisor


class Unforeseen:
    """A Podman that fails as none does, whatever it is asked."""

    def __init__(self):
        self.asked = asyncio.Queue()

    def __getattr__(self, name):
        async def call(*_):
            self.asked.put_nowait(name)
            raise ValueError(name)

        return call


async def told(watched):
    """What is told next."""
    async with asyncio.timeout(20):
        return next(each for each in await anext(watched) if isinstance(each, Happened))


async def test_a_probe_that_fails_in_a_way_that_nobody_foresaw_is_a_failed_probe(node):
    unknown = Probe(HttpGetAction(80, None), failure_threshold=1)
    pod = add(node, container=Container("main", "i", readiness=unknown)).pod
    prober = Prober(node, pod, lambda: None)
    watched = node.feed.watch()
    async with asyncio.TaskGroup() as group:
        prober.attend(group)
        happened = await told(watched)
        prober.leave()
    assert happened.reason == "Unhealthy"
    assert [count.failed for count in prober.counts()] == [1]


async def test_a_hook_that_fails_in_a_way_that_nobody_foresaw_is_a_failed_hook(node):
    pod = add(node, container=Container("main", "i", post_start=TcpSocketAction(80))).pod
    hooks = Hooks(node, pod)
    watched = node.feed.watch()
    async with asyncio.TaskGroup() as hooks.group:
        hooks.begin([RUN], "post_start")
        happened = await told(watched)
    assert happened.reason == "FailedPostStartHook"
    assert pod.marks[RUN.id].doomed == "PostStart"


async def test_a_step_that_fails_in_a_way_that_nobody_foresaw_is_taken_again(tmp_path):
    podman = Unforeseen()
    node = node_of(podman, tmp_path)
    supervisor = add(node)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(supervisor.run())
        assert await podman.asked.get() == "create_pod"
        supervisor.pod.notice()
        assert await podman.asked.get() == "inspect"
        task.cancel()


async def test_a_pod_that_cannot_be_measured_keeps_no_other_from_it(node):
    add(node, "odd", volumes={"scratch": EmptyDir(size_limit="no number")})
    full = add(node, "full", volumes={"scratch": EmptyDir(size_limit=-1)}).pod
    await enforce_once(node.supervisors())
    assert full.eviction


def test_the_deepest_tree_is_measured_and_removed_and_its_links_lead_nowhere(node, tmp_path):
    folder = add(node).pod.folder
    volume = folder.volume("scratch")
    volume.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (volume / "link").symlink_to(tmp_path / "other")
    known = disk_usage(volume)
    here = os.open(volume, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert disk_usage(volume) == known
    folder.remove()
    assert list(folder.path.parent.iterdir()) == []
    assert (tmp_path / "other" / "file").exists()


async def test_a_pod_that_fills_the_disk_is_evicted_although_nothing_can_be_written(node):
    pods = []
    for name in ("full", "other"):
        pod = add(node, name, volumes={"scratch": EmptyDir(size_limit=1)}).pod
        prepare(pod.folder, pod.work)
        (pod.folder.volume("scratch") / "file").write_bytes(b"x" * 5000)
        pod.woken.clear()
        pods.append(pod)
    (pods[0].folder.path / "eviction.json").mkdir()  # no file can take its place
    await enforce_once(node.supervisors())
    assert [pod.eviction.reason for pod in pods] == ["Evicted", "Evicted"]
    assert [pod.woken.is_set() for pod in pods] == [True, True]


def test_files_of_paths_that_are_too_long_count_as_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5000)
    known = disk_usage(tmp_path)
    name, length = "d" * 200, len(str(tmp_path))
    here = os.open(tmp_path, os.O_RDONLY)
    while length + 1 + len(name) < 4096:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, length = inner, length + 1 + len(name)
    os.close(os.open("f" * 250, os.O_CREAT, dir_fd=here))
    os.close(here)
    assert disk_usage(tmp_path) == known


class Podman:
    """It has pods of one running container each, which has the pod's name; of `torn` it can tell nothing."""

    def __init__(self, *names):
        self.names = names
        self.removed = []

    async def info(self):
        return Info()

    async def pods(self, query):
        return [ListedPod(name, name, labels(who(name))) for name in self.names]

    async def containers(self, query):
        return [ListedContainer(f"in-{name}", "running", pod=name) for name in self.names]

    async def inspect(self, container):
        if container == "in-torn":
            raise PodmanError("getting graph driver info: readlink /l/X: no such file or directory")
        marks = InspectConfig({CONTAINER_LABEL: "main", RUN_LABEL: "0"})
        return ContainerInspect(container, container, InspectState("running"), config=marks)

    async def remove_pod(self, name):
        self.removed.append(name)

    async def pod_exists(self, name):
        return False

    async def events(self, query):
        await asyncio.Event().wait()
        yield


async def test_a_pod_that_fills_the_disk_is_deleted_although_nothing_can_be_written(tmp_path):
    node = node_of(Podman(), tmp_path)
    supervisor = add(node)
    supervisor.pod.runs.clear()
    (supervisor.pod.folder.path / "deletion.json").mkdir()  # no file can take its place
    supervisor.delete(0.0)
    async with asyncio.timeout(20):
        await supervisor.run()
    assert not supervisor.pod.folder.path.exists()


async def test_a_pod_that_podman_cannot_tell_of_keeps_no_other_from_being_attended(tmp_path):
    node = node_of(Podman("torn", "web"), tmp_path)
    for name in ("torn", "web"):
        Folder(tmp_path / "pods", who(name)).create(Record(1.0, work(name)))
    async with asyncio.timeout(20), node.running():
        seen = {each.identity.name: each for each in node.observations()}
    assert {name: each.unknown for name, each in seen.items()} == {"torn": True, "web": False}
    assert isinstance(seen["web"].containers[0].state, Running)


async def test_a_node_does_not_start_while_podman_is_away(tmp_path):
    podman = Podman("web")
    podman.inspect = AsyncMock(side_effect=Retry("away"))
    with pytest.raises(Retry):
        async with node_of(podman, tmp_path).running():
            pass


async def test_a_container_that_podman_cannot_tell_of_hides_no_other_of_its_pod(tmp_path):
    node = node_of(Podman(), tmp_path)
    pod = add(node).pod
    pod.runs.clear()
    others = {f"in-{number}" for number in range(8)}
    pod.notice({"in-torn"} | others)
    with pytest.raises(PodmanError):
        await pod.look(node.podman)
    assert pod.runs.keys() == others


async def test_a_pod_that_podman_cannot_tell_of_can_be_deleted(tmp_path):
    podman = Podman()
    node = node_of(podman, tmp_path)
    supervisor = add(node)
    supervisor.pod.notice(["in-torn"])
    supervisor.pod.deletion = Deletion(time.time() - 40, 30)
    async with asyncio.timeout(4):  # in the first turn
        await supervisor.run()
    assert podman.removed == [pod_name(who("web"))]


async def test_a_deleted_pod_whose_look_was_refused_once_does_not_wait_for_its_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "PAUSE", 0.1)
    podman = Podman()
    inspected = ContainerInspect("infra", "infra", InspectState("running"))
    podman.inspect = AsyncMock(side_effect=[PodmanError("cannot tell"), inspected])
    pod = (supervisor := add(node_of(podman, tmp_path))).pod
    pod.sandbox = Sandbox("pod", "infra", running=True)
    pod.runs = {RUN.id: structs.replace(RUN, state="exited")}
    pod.notice(["infra"])
    pod.deletion = Deletion(time.time(), 300)
    async with asyncio.timeout(20):
        await supervisor.run()
    assert podman.inspect.await_count == 2
