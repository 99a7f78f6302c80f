"""Finishing a node without an agent, against a small apiserver and a small cloud: order of steps, and what stops them."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from emulators import until
from kube_server import reasons, refusal, serving

from overspill.backends.base import ContainerGroup, Listing
from overspill.decommission import decide
from overspill.decommission.finisher import Finisher
from overspill.errors import Rejected, Retry
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.model.work import Identity

NODE = "vn-3"
POD = "/api/v1/namespaces/default/pods/web"
NODE_PATH = f"/api/v1/nodes/{NODE}"
LEASE_PATH = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
SETS = "/apis/apps/v1/namespaces/kube-system/statefulsets"


class World:
    """One virtual node with one pod and its group; `writes` are those that were let, in order."""

    def __init__(self):
        self.node = {
            "metadata": {
                "name": NODE,
                "uid": "n",
                "resourceVersion": "1",
                "labels": {"type": "virtual-kubelet"},
                "annotations": {"overspill.dev/statefulset": "kube-system/vn", "overspill.dev/ordinal": "3"},
            },
            "spec": {"providerID": f"cloud://{NODE}"},
        }
        self.lease = {"metadata": {"name": NODE, "resourceVersion": "7"}, "spec": {"renewTime": ""}}
        self.replicas = 1
        owner = {"kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": True}
        self.pod = {
            "metadata": {"name": "web", "namespace": "default", "uid": "p", "ownerReferences": [owner]}
        }
        self.budget = False
        self.groups = [group("p")]
        self.lists = True
        self.place = {}
        self.sure = True
        self.writes = []
        self.message = ""
        self.kept = set()  # groups and pods that cannot be removed
        self.meanwhile = {}  # what happens once, as this is listed

    # --- the cloud ---

    async def list(self):
        self.happen("groups")
        if not self.lists:
            raise Retry("the cloud does not answer")
        return Listing(groups=tuple(self.groups), foreign=0)

    async def remove(self, found):
        if found.identity.uid in self.kept:
            raise Rejected("it is protected")
        self.writes.append(f"remove group of {found.identity.uid}")
        self.groups.remove(found)

    async def node_labels(self):
        return self.place

    # --- the apiserver ---

    async def answer(self, request):
        if request.method == "GET":
            return self.read(request.path)
        return self.write(request.method, request.path, await request.json())

    def happen(self, listed):
        self.meanwhile.pop(listed, lambda: None)()

    def read(self, path):
        self.happen(path)
        stateful_set = {
            "metadata": {"name": "vn", "namespace": "kube-system"},
            "spec": {"replicas": self.replicas},
        }
        listed = {
            "/api/v1/nodes": [self.node] if self.node else [],
            "/api/v1/pods": [self.pod] if self.pod else [],
            SETS: [stateful_set] if self.replicas is not None else [],
        }
        if path in listed:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": listed[path]})
        return web.json_response(self.lease) if self.lease else refusal(404, "NotFound")

    def write(self, method, path, body):
        if path == f"{POD}/eviction" and self.budget:
            return refusal(
                429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."
            )
        if path == f"{NODE_PATH}/status":
            self.message = body["status"]["conditions"][0]["message"]
            return web.json_response({})
        if path == LEASE_PATH and body["preconditions"] != {
            "resourceVersion": self.lease["metadata"]["resourceVersion"]
        }:
            return refusal(409, "Conflict")
        if (path, method) == (NODE_PATH, "PATCH") and body["metadata"]["resourceVersion"] != self.version:
            return refusal(409, "Conflict")
        if method == "DELETE" and path in self.kept:
            return refusal(403, "Forbidden", "it is protected")
        self.writes.append(f"{method} {path}")
        if path == f"{POD}/eviction":
            self.pod["metadata"] |= {
                "deletionTimestamp": "2026-11-29T00:00:00Z",
                "deletionGracePeriodSeconds": 30,
            }
        elif path == NODE_PATH and method == "PATCH":
            self.node["spec"] |= body["spec"]
        elif method == "DELETE":
            {POD: self.forget_pod, LEASE_PATH: self.forget_lease, NODE_PATH: self.forget_node}[path]()
        return web.json_response({})

    @property
    def version(self):
        return self.node["metadata"]["resourceVersion"]

    def node_changes(self):
        self.node["metadata"]["resourceVersion"] += "1"

    def is_wanted(self):
        self.replicas = 4

    def forget_pod(self):
        self.pod = None

    def forget_lease(self):
        self.lease = None

    def forget_node(self):
        self.node = None

    def agent_comes(self, beat):
        self.lease["metadata"] |= {
            "annotations": {"overspill.dev/agent-holder": "vn-3/u"},
            "resourceVersion": beat,
        }
        self.lease["spec"]["renewTime"] = f"2026-11-29T00:00:{beat}Z"


def group(uid, node=NODE):
    return ContainerGroup(
        id=f"g-{uid}", identity=Identity("c", node, "default", uid, uid), created_at=0.0, status="Running"
    )


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(decide, "LATE", 0.0)  # whoever let go of the Lease is gone at once
    return World()


@pytest.fixture
async def finisher(world):
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(world.answer))
        client = await stack.enter_async_context(Client(Config(server=url, credentials=FileCredentials())))
        world.events = Events(client, instance="test")
        yield Finisher(
            client,
            world.events,
            world,
            backend="cloud",
            region="north",
            bare_pods="wait",
            sure=lambda: world.sure,
        )


CORDON, EVICT = f"PATCH {NODE_PATH}", f"POST {POD}/eviction"
FREE = f"DELETE {POD}"
GONE = [f"DELETE {LEASE_PATH}", f"DELETE {NODE_PATH}"]


async def test_pod_then_group_then_pod_then_node(world, finisher):
    steps = []
    for _ in range(6):
        await finisher.look()
        steps.append(world.writes[:])
        world.writes.clear()
    assert steps == [[CORDON, EVICT], ["remove group of p"], [FREE], [], GONE, []]
    assert "0 pods, 0 container groups left" in world.message


async def test_a_budget_holds_and_is_told(world, finisher):
    world.budget = True
    for _ in range(2):
        await finisher.look()
    assert world.writes == [CORDON]
    assert "1 pod (1 held by disruption budgets), 1 container group left" in world.message
    assert reasons(world.events) == ["Decommissioning", "EvictionRefused"]
    assert world.groups


async def test_a_pod_without_a_controller_is_waited_for_and_told(world, finisher):
    del world.pod["metadata"]["ownerReferences"]
    await finisher.look()
    assert world.writes == [CORDON]
    assert reasons(world.events) == ["Decommissioning", "BarePods"]


async def test_a_group_whose_pod_is_gone_goes_and_another_nodes_stays(world, finisher):
    world.pod, other = None, group("q", node="vn-2")
    world.groups.append(other)
    for _ in range(4):
        await finisher.look()
    assert world.writes == [CORDON, "remove group of p", *GONE]
    assert world.groups == [other]


@pytest.mark.parametrize("replicas", [4, 9])
async def test_a_node_that_is_wanted_is_left_alone(world, finisher, replicas):
    world.replicas = replicas
    await finisher.look()
    assert world.writes == []


async def test_a_statefulset_that_is_gone_wants_no_node(world, finisher):
    world.replicas = None
    await finisher.look()
    assert world.writes == [CORDON, EVICT]


async def test_a_node_whose_agent_lives_is_left_alone(world, finisher):
    world.agent_comes("01")
    await finisher.look()
    assert world.writes == []


async def test_an_agent_that_comes_in_between_keeps_node_and_lease(world, finisher):
    world.pod, world.groups = None, []
    await finisher.look()
    world.agent_comes("02")
    for _ in range(3):
        await finisher.look()
    assert world.writes == [CORDON]


async def test_nothing_is_done_without_a_whole_list_of_groups(world, finisher):
    world.lists = False
    with pytest.raises(Retry):
        await finisher.look()
    assert world.writes == []


@pytest.mark.parametrize(
    ("provider", "region", "told"),
    [("another", "north", "another://vn-3 north"), ("cloud", "south", "cloud://vn-3 south")],
)
async def test_nothing_is_done_where_the_groups_cannot_be_seen(world, finisher, provider, region, told):
    world.node["spec"]["providerID"] = f"{provider}://{NODE}"
    world.node["metadata"]["labels"]["topology.kubernetes.io/region"] = region
    await finisher.look()
    assert world.writes == []
    assert f"the controller does not see the backend of {told}" in world.message


@pytest.mark.parametrize("labels", [{"overspill.dev/podman": "theirs"}, {}], ids=["another", "unknown"])
async def test_nothing_is_done_for_a_node_of_another_machine(world, finisher, labels):
    world.place = {"overspill.dev/podman": "ours"}
    world.node["metadata"]["labels"] |= labels
    await finisher.look()
    assert world.writes == []
    assert "the controller does not see the backend" in world.message


async def test_a_node_of_this_machine_is_finished(world, finisher):
    world.place = {"overspill.dev/podman": "ours"}
    world.node["metadata"]["labels"] |= world.place
    await finisher.look()
    assert world.writes[0] == CORDON


async def test_a_region_is_no_matter_where_the_backend_has_none(world, finisher):
    """Somebody's topology spread goes by it."""
    world.node["metadata"]["labels"]["topology.kubernetes.io/region"] = "office"
    finisher._region = ""
    await finisher.look()
    assert world.writes[0] == CORDON


async def test_nothing_is_done_as_long_as_what_an_agent_made_last_may_not_be_listed(
    world, finisher, monkeypatch
):
    monkeypatch.setattr(decide, "LATE", 60.0)
    await finisher.look()
    assert world.writes == []
    monkeypatch.setattr(decide, "LATE", 0.0)
    await finisher.look()
    assert world.writes[0] == CORDON


async def test_nothing_is_done_when_another_may_lead(world, finisher):
    world.sure = False
    await finisher.look()
    assert world.writes == []


@pytest.mark.parametrize("change", [World.is_wanted, lambda world: world.agent_comes("03")])
async def test_what_has_changed_while_the_groups_were_listed_counts(world, finisher, change):
    world.meanwhile["groups"] = lambda: change(world)
    await finisher.look()
    assert (world.writes, world.message) == ([], "")


async def test_a_look_that_found_the_node_empty_before_it_was_wanted_again_does_not_count(world, finisher):
    world.pod, world.groups = None, []
    await finisher.look()
    world.meanwhile["groups"] = world.is_wanted
    await finisher.look()
    world.replicas = 1
    await finisher.look()
    assert world.writes == [CORDON]
    await finisher.look()
    assert world.writes == [CORDON, *GONE]


async def test_nobody_is_evicted_from_a_node_that_changes_before_it_is_cordoned(world, finisher):
    world.meanwhile["/api/v1/pods"] = world.node_changes
    await finisher.look()
    assert (world.writes, world.message) == ([], "")
    await finisher.look()
    assert world.writes == [CORDON, EVICT]


async def test_looks_of_an_earlier_leadership_do_not_count(world, finisher):
    world.pod, world.groups = None, []
    await finisher.look()
    world.message = ""

    async def told():
        return world.message

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        leading = tasks.create_task(finisher.run())
        await until(told, "the first look")
        leading.cancel()
    assert world.writes == [CORDON]


async def test_a_group_that_cannot_be_removed_holds_up_no_other_and_is_told(world, finisher):
    world.pod, world.groups = None, [group("p"), group("q")]
    world.kept = {"p"}
    await finisher.look()
    assert world.groups == [group("p")]
    assert world.message.endswith("; container group g-p cannot be removed: it is protected")


async def test_a_pod_that_cannot_be_removed_is_told(world, finisher):
    world.groups, world.kept = [], {POD}
    for _ in range(2):
        await finisher.look()
    assert world.writes == [CORDON, EVICT]
    assert "; pod default/web cannot be removed: " in world.message


async def test_nothing_more_is_removed_once_another_may_lead(world, finisher):
    world.pod, world.groups = None, [group("p"), group("q")]
    removing = world.remove

    async def last(found):
        await removing(found)
        world.sure = False

    world.remove = last
    await finisher.look()
    assert world.groups == [group("q")]


async def test_a_node_that_is_wanted_again_while_its_groups_are_removed_is_told_nothing(world, finisher):
    world.pod = None
    removing = world.remove

    async def slowly(found):
        await removing(found)
        world.is_wanted()
        world.agent_comes("04")
        world.node["spec"]["unschedulable"] = False
        world.message = ""

    world.remove = slowly
    for _ in range(3):
        await finisher.look()
    assert (world.groups, world.message) == ([], "")
    assert world.writes == [CORDON, "remove group of p"]
