"""The assigner as a whole, against a small apiserver: what it makes of what the watches bring."""

import asyncio
import collections
import contextlib

import msgspec
import pytest
from aiohttp import web
from kube_server import refusal, serving

import placing
from overspill import names
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.metrics import REGISTRY
from overspill.model.affinity import Taint
from overspill.placement import assigner, write
from overspill.placement.assigner import Assigner
from overspill.placement.managed import Managed
from overspill.placement.nodes import NodeCondition, NodeStatus
from overspill.placement.workloads import ReplicaSet, Workload


class World:
    """An apiserver that keeps what is asked of it, and an assigner that is told of objects.

    Attributes:
        answer: what a patch of a pod gets; None for success.
        creations: how many policies were asked for, none of which could be made.
        let_go: how many policies lost their finalizer.
        evicted: names of the pods that were evicted.
        status: of the policy, as it was written last.
        stored: what a list gives, by plural.
        indexes: of namespaces; each PlacementIndex's spec, or None for one that was deleted.
        index_troubles: what writes of them get first.
        undeletable: names of pods that a webhook keeps from being deleted.
        deleted: names of pods.
    """

    def __init__(self):
        self.patches = []
        self.creations = 0
        self.let_go = 0
        self.evicted = []
        self.status = {}
        self.stored = {}
        self.indexes, self.index_troubles = {}, []
        self.undeletable, self.deleted = set(), []
        self.answer = lambda _patch: None
        self._arrived = asyncio.Event()
        self._running = None

    async def handle(self, request):
        body = await request.json() if request.can_read_body else None
        answer, name = None, request.path.split("/")[-1]
        if request.method == "GET":
            answer = web.json_response({"metadata": {}, "items": self.stored.get(name, [])})
        elif "/placementindexes/" in request.path and self.index_troubles:
            answer = self.index_troubles.pop()
        elif "/placementindexes/" in request.path:
            self.indexes[request.path.split("/")[-3]] = body["spec"] if request.method == "PATCH" else None
        elif request.method == "DELETE" and name in self.undeletable:
            answer = refusal(403, "Forbidden", "admission webhook denied the request")
        elif request.method == "DELETE":
            self.deleted.append(name)
        elif request.method == "PATCH" and "/pods/" in request.path:
            patch = {each["path"]: each.get("value") for each in body} | {"name": name}
            self.patches.append(patch)
            answer = self.answer(patch)
        elif request.method == "POST" and request.path.endswith("/placementpolicies"):
            self.creations += 1
            answer = refusal(500, "InternalError")
        elif request.path.endswith("/eviction"):
            self.evicted.append(request.path.split("/")[-2])
        elif request.path.endswith("/status"):
            self.status = body["status"]
        elif request.method == "PATCH" and body["metadata"].get("finalizers") == []:
            self.let_go += 1
        self._arrived.set()
        return answer or web.json_response({"metadata": {}})

    def replica_sets(self, *found):
        self.assigner.replica_sets_changed(
            Batch(replace=False, changes=[Change("MODIFIED", each) for each in found])
        )

    def policies(self, *policies, kind="MODIFIED"):
        self.assigner.policies_changed(
            Batch(replace=False, changes=[Change(kind, each) for each in policies])
        )

    def pods(self, *pods, kind="MODIFIED"):
        self.assigner.pods_changed(Batch(replace=False, changes=[Change(kind, each) for each in pods]))

    def nodes(self, *nodes, kind="MODIFIED"):
        self.assigner.nodes_changed(Batch(replace=False, changes=[Change(kind, each) for each in nodes]))

    def workloads(self, cache, *found):
        self.assigner.workloads_changed(
            cache, Batch(replace=False, changes=[Change("MODIFIED", each) for each in found])
        )

    def lead(self):
        self._running = asyncio.ensure_future(self.assigner.run())

    async def stop(self):
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def until(self, holds):
        async with asyncio.timeout(20):
            while not holds():
                self._arrived.clear()
                await self._arrived.wait()

    def patched(self):
        """Names of the pods that were patched."""
        return [patch["name"] for patch in self.patches]


@pytest.fixture
async def world():
    made = World()
    async with (
        serving(made.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        made.assigner = Assigner(client, Events(client, instance="test"), sure=lambda: True)
        yield made
        await made.stop()


WEB_1 = {names.TEMPLATE_HASH: "1"}  # its ReplicaSet is web-1


def gated(name, **fields):
    return placing.gated(name, labels=WEB_1, **fields)


def placed(name, pool, rank, *, labels=None, **fields):
    return placing.placed(name, pool, rank, labels={**WEB_1, **(labels or {})}, **fields)


def replica_set(name, revision, replicas=1):
    owner = {"kind": "Deployment", "name": "web", "uid": "d", "controller": True}
    annotations = {"deployment.kubernetes.io/revision": str(revision)}
    metadata = {"name": name, "namespace": "a", "uid": name, "annotations": annotations}
    content = {"metadata": {**metadata, "ownerReferences": [owner]}, "spec": {"replicas": replicas}}
    return msgspec.convert(content, ReplicaSet)


def policy_of(world, name):
    managed = world.assigner.managed_of(name)
    return managed and managed.policy.metadata.name


async def test_pods_of_a_policy_that_goes_are_the_next_ones(world):
    older = placing.policy(name="older", created="2026-01-01T00:00:00Z")
    younger = placing.policy(name="younger", created="2026-01-02T00:00:00Z")
    world.policies(older, younger)
    world.pods(placed("p", "base", 1, labels={names.POLICY_LABEL: "older"}))
    assert policy_of(world, "p") == "older"
    world.policies(older, kind="DELETED")
    assert policy_of(world, "p") == "younger"
    world.lead()
    await world.until(lambda: world.patches)
    assert world.patches[0]["/metadata/labels/placement.overspill.dev~1policy"] == "younger"


POOL = "/metadata/labels/placement.overspill.dev~1pool"
COST = "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost"


async def test_a_new_leader_sets_right_what_the_one_before_did_not_get_to(world):
    """It came to an end as a rollout began: some pods of the old revision have the costs of before."""
    world.policies(placing.policy())
    world.replica_sets(replica_set("web-0", 1), replica_set("web-1", 2))
    old = {"labels": {names.TEMPLATE_HASH: "0"}, "owner": "web-0"}
    turned = {names.DELETION_COST: "-1000001"}
    world.pods(
        placed("new", "base", 1),
        placed("done", "base", 1, annotations=turned, **old),
        placed("elastic", "elastic", 6, **old),
        placed("left", "base", 2, **old),
    )
    world.lead()
    await world.until(lambda: world.patches)
    assert world.patched() == ["left"], "what is right is not written"
    assert world.patches[0][COST] == "-1000002"


async def test_the_cost_is_right_of_a_pod_whose_revision_turns_old_while_it_is_placed(world):
    def roll_out(_patch):
        if len(world.patches) == 1:
            world.replica_sets(replica_set("web-2", 2))

    world.answer = roll_out
    world.policies(placing.policy())
    world.replica_sets(replica_set("web-1", 1))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.patches)
    assert world.patches[0]["/metadata/annotations"][names.DELETION_COST] == "999999"
    world.pods(placed("p", "base", 1, version=2))
    await world.until(lambda: len(world.patches) == 2)
    assert world.patches[1][COST] == "-1000001"


LABEL = "/metadata/labels/a"


def refuses(patch):
    """An apiserver that does not like a pool's label."""
    return refusal(422, "Invalid", "a lowercase RFC 1123 label") if patch.get(LABEL) == "!" else None


def labelled(value):
    return {"patch": {"metadata": {"labels": {"a": value}}}}


async def test_pods_are_tried_again_once_the_policy_that_was_refused_is_corrected(world):
    world.answer = refuses
    world.policies(placing.policy(placing.pool("base", 5, **labelled("!"))))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.assigner.managed_of("p").state.waiting and world.patches)
    world.policies(placing.policy(placing.pool("base", 5, **labelled("x"))))
    await world.until(lambda: world.patches[-1].get(LABEL) == "x")


async def test_pods_that_a_pool_is_refused_for_wait_rather_than_break_the_limit_of_another(world):
    world.answer = refuses
    world.policies(placing.policy(placing.pool("base", 1), placing.pool("elastic", **labelled("!"))))
    world.pods(gated("p"), gated("q"))
    world.lead()
    managed = world.assigner.managed_of("q")
    await world.until(lambda: "q" in managed.reasons)
    assert managed.state.totals == [1, 0]


def counted(**target):
    target = {"kind": "StatefulSet", "name": "db", **target}
    return placing.policy(placing.pool("base", 1), placing.pool("elastic"), targetRef=target)


DB = {"metadata": {"name": "db", "namespace": "a", "uid": "db"}, "spec": {"ordinals": {"start": 5}}}


async def test_pods_that_are_seen_before_their_stateful_set_wait_for_its_first_number(world):
    world.policies(counted())
    world.pods(placing.gated("db-5", owner="db", kind="StatefulSet"))
    world.lead()
    await world.until(lambda: world.assigner.managed_of("db-5").reasons)
    world.workloads(world.assigner.stateful_sets, msgspec.convert(DB, Workload))
    await world.until(lambda: world.patches)
    assert world.patches[0]["/metadata/labels"][names.POOL_LABEL] == "base"


async def test_a_stateful_set_of_another_kind_with_the_same_name_says_nothing(world):
    world.workloads(world.assigner.stateful_sets, msgspec.convert(DB, Workload))
    kruise = Managed(counted(apiVersion="apps.kruise.io/v1beta1"))
    assert world.assigner.around(Managed(counted())).first_ordinal == 5
    assert world.assigner.around(kruise).first_ordinal == 0


def annotated(uid):
    metadata = {"name": "web", "namespace": "a", "uid": uid, "annotations": {names.BASE_ANNOTATION: "5"}}
    return msgspec.convert({"metadata": metadata}, Workload)


def owned(uid, **metadata):
    """A policy that was made by the annotation."""
    owner = {"kind": "Deployment", "name": "web", "uid": uid, "controller": True}
    return placing.policy(metadata={"uid": f"policy-of-{uid}", "ownerReferences": [owner], **metadata})


async def test_pods_of_an_annotated_deployment_wait_as_long_as_its_policy_cannot_be_made(world, monkeypatch):
    monkeypatch.setattr(assigner, "ORPHAN_AFTER", 0.01)
    monkeypatch.setattr(write, "POLICY_EVERY", 0.01)
    world.workloads(world.assigner.deployments, annotated("d"))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.creations == 2)
    assert world.patches == []
    world.policies(placing.policy())
    await world.until(lambda: world.patches)
    assert POOL in world.patches[0]


async def test_pods_of_one_that_is_made_again_wait_while_the_policy_of_the_one_before_goes(
    world, monkeypatch
):
    monkeypatch.setattr(assigner, "ORPHAN_AFTER", 0.01)
    monkeypatch.setattr(write, "POLICY_EVERY", 0.01)
    going = owned("old", deletionTimestamp="2026-01-02T00:00:00Z", finalizers=[names.RELEASE_FINALIZER])
    world.policies(going)
    world.workloads(world.assigner.deployments, annotated("new"))
    world.pods(*(gated(f"p{number}") for number in range(20)))
    world.lead()
    await world.until(lambda: world.let_go)
    world.policies(going, kind="DELETED")
    await world.until(lambda: world.creations == 2)
    assert world.patches == []
    world.policies(owned("new"))
    await world.until(lambda: len(world.patches) == 20)
    assert collections.Counter(patch[POOL] for patch in world.patches) == {"base": 5, "elastic": 15}


@pytest.mark.parametrize("late", ["placementpolicies", "deployments"])
async def test_pods_wait_whose_policy_the_watches_have_not_brought(world, monkeypatch, late):
    """The apiserver answers 429 to a watch that begins anew, for example."""
    monkeypatch.setattr(assigner, "ORPHAN_AFTER", 0.01)
    monkeypatch.setattr(write, "POLICY_EVERY", 0.01)
    stored = {"placementpolicies": placing.policy(), "deployments": annotated("d")}
    world.stored[late] = [msgspec.to_builtins(stored[late])]
    world.pods(gated("p"), placing.gated("bare", owner="other", kind="Job"))
    world.lead()
    await world.until(lambda: world.patched() == ["bare"])
    world.policies(placing.policy())
    await world.until(lambda: len(world.patches) == 2)
    assert POOL in world.patches[1]


async def test_a_policy_goes_no_sooner_than_its_index(world):
    world.policies(owned("d", finalizers=[names.RELEASE_FINALIZER]))
    world.lead()
    await world.until(lambda: world.indexes.get("a"))
    going = {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": [names.RELEASE_FINALIZER]}
    world.index_troubles = [refusal(403, "Forbidden", "denied by a policy")]
    world.policies(owned("d", **going))
    await world.until(lambda: world.let_go)
    assert world.indexes == {"a": None}


async def test_an_index_whose_policies_went_while_nobody_led_is_taken_away(world):
    world.stored["placementindexes"] = [{"metadata": {"name": "overspill", "namespace": "left"}}]
    world.lead()
    await world.until(lambda: "left" in world.indexes)
    assert world.indexes == {"left": None}


async def test_a_pod_that_cannot_be_deleted_keeps_no_other_from_making_way(world, monkeypatch):
    monkeypatch.setattr(assigner.Queue, "_back_off", lambda *_: 0.01)
    world.undeletable.add("p0")
    short = placing.pool("base", 5, unschedulableTimeoutSeconds=1)
    world.policies(placing.policy(short, placing.pool("elastic")))
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    world.pods(*(placed(f"p{number}", "base", number + 1, conditions=[unschedulable]) for number in range(2)))
    world.lead()
    await world.until(lambda: world.deleted and world.status)
    assert world.deleted == ["p1"]


async def test_they_are_let_go_once_it_has_the_annotation_no_more(world, monkeypatch):
    monkeypatch.setattr(assigner, "ORPHAN_AFTER", 0.01)
    bare = {"metadata": {"name": "web", "namespace": "a", "uid": "d"}}
    world.workloads(world.assigner.deployments, msgspec.convert(bare, Workload))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.patches)
    assert POOL not in world.patches[0]


BASE_ONLY = placing.pool("base", 5, capacityCheck="Simulate")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], placing.node("n"), id="a node comes"),
        pytest.param([placing.node("n", cordoned=True)], placing.node("n"), id="uncordoned"),
        pytest.param([placing.node("n", ready=False)], placing.node("n"), id="ready again"),
        pytest.param([placing.node("n", pods="0")], placing.node("n"), id="grown"),
        pytest.param(
            [placing.node("n", taints=[Taint("a", "NoSchedule")])], placing.node("n"), id="untainted"
        ),
        pytest.param([placing.node("n", type="virtual-kubelet")], placing.node("n"), id="labelled"),
    ],
)
async def test_pods_that_wait_for_room_are_placed_as_soon_as_a_node_has_it(world, before, after):
    world.nodes(*before)
    world.policies(placing.policy(BASE_ONLY))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.assigner.managed_of("p").reasons)
    world.nodes(after)
    await world.until(lambda: world.patched() == ["p"])


async def test_a_node_that_is_only_alive_leads_to_no_look(world):
    node = placing.node("n", pods="0")
    world.nodes(node)
    world.policies(placing.policy(BASE_ONLY))
    world.pods(gated("p"))
    world.lead()
    await world.until(lambda: world.assigner.managed_of("p").reasons)
    beat = NodeStatus(node.status.allocatable, (*node.status.conditions, NodeCondition("DiskFull", "False")))
    world.nodes(msgspec.structs.replace(node, status=beat))
    assert REGISTRY.get_sample_value("workqueue_depth", {"name": "placement-policies"}) == 0


async def test_a_node_that_changes_leads_to_a_look_at_who_may_move_there(world):
    world.policies(placing.policy(rebalance={"mode": "Evict"}))
    world.pods(placed("p", "base", 1))
    world.lead()
    managed = world.assigner.managed_of("p")
    await world.until(lambda: managed.conditions)
    world.nodes(placing.node("n"))
    assert REGISTRY.get_sample_value("workqueue_depth", {"name": "placement-policies"}) == 1


BY_LABEL = {"selector": {"matchLabels": WEB_1}}
AT_ONCE = {"mode": "Evict", "intervalSeconds": 0, "stabilizationSeconds": 0}
READY = {"type": "Ready", "status": "True"}


async def test_no_pod_moves_as_long_as_the_one_before_has_no_successor(world):
    world.policies(placing.policy(**BY_LABEL, rebalance=AT_ONCE))
    world.replica_sets(replica_set("web-1", 1, replicas=8))
    pods = {f"p{rank}": placed(f"p{rank}", "elastic", rank, conditions=[READY]) for rank in range(6, 14)}
    world.pods(*pods.values())
    world.lead()
    await world.until(lambda: world.evicted)
    world.pods(pods[world.evicted[0]], kind="DELETED")
    await world.until(lambda: world.status.get("replicas") == 7)
    assert world.status["desiredReplicas"] == 8
    assert len(world.evicted) == 1
    world.replica_sets(replica_set("web-1", 1, replicas=7))
    await world.until(lambda: world.status["desiredReplicas"] == 7)
    await world.until(lambda: len(world.evicted) == 2)
