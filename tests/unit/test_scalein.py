"""Whether a virtual node goes for good, and what has to go before it: tables of the pure decisions."""

import msgspec
import pytest

from overspill.agent.scalein import UNSURE_LIMIT, Step, Unsure, decide
from overspill.model.node import NodeMeta, NodeObject, NodeSpec
from overspill.model.pods import Pod
from overspill.model.scalein import (
    Leave,
    Member,
    Progress,
    StatefulSet,
    annotations_of,
    condition_patch,
    cordon_patch,
    leave,
    marked,
    member_of_node,
    member_of_pod,
    to_do,
    uncordon_patch,
)

THIRD = Member("kube-system", "virtual-node-eci", 2)


def stateful_set(**spec):
    return msgspec.convert({"metadata": {"name": THIRD.stateful_set}, "spec": spec}, StatefulSet)


DELETED = msgspec.convert(
    {"metadata": {"deletionTimestamp": "2026-11-29T00:00:00Z"}, "spec": {"replicas": 4}}, StatefulSet
)
LEAVES = {
    "wanted": (THIRD, stateful_set(replicas=3), False, None),
    "scaled to its ordinal": (THIRD, stateful_set(replicas=2), False, "ScaledIn"),
    "scaled to nothing": (THIRD, stateful_set(replicas=0), False, "ScaledIn"),
    "replicas not said are one": (THIRD, stateful_set(), False, "ScaledIn"),
    "ordinals that start later": (THIRD, stateful_set(replicas=1, ordinals={"start": 2}), False, None),
    "ordinals that end before": (THIRD, stateful_set(replicas=1, ordinals={"start": 1}), False, "ScaledIn"),
    "ordinals that start above": (THIRD, stateful_set(replicas=9, ordinals={"start": 3}), False, "ScaledIn"),
    "gone": (THIRD, None, False, "StatefulSetGone"),
    "being deleted": (THIRD, DELETED, False, "StatefulSetDeleted"),
    "marked, though wanted": (THIRD, stateful_set(replicas=3), True, "Marked"),
    "marked, of no StatefulSet": (None, None, True, "Marked"),
    "of no StatefulSet": (None, None, False, None),
}


@pytest.mark.parametrize(("member", "found", "mark", "reason"), LEAVES.values(), ids=LEAVES.keys())
def test_who_leaves(member, found, mark, reason):
    told = leave(member, found, marked=mark)
    assert (told and told.reason) == reason


def test_the_reason_is_told_in_words_that_name_the_command():
    told = leave(THIRD, stateful_set(replicas=1), marked=False)
    assert told.message == "StatefulSet kube-system/virtual-node-eci wants 1 replica, and this is ordinal 2"


GOES = Leave("ScaledIn", "")
STEPS = {
    "update, reschedule": (None, False, 0.0, Step.END),
    "scaled in": (GOES, False, 0.0, Step.DRAIN),
    "still scaled in": (GOES, True, 900.0, Step.DRAIN),
    "scaled back up": (None, True, 10.0, Step.CANCEL),
    "apiserver away at first": (Unsure(""), False, UNSURE_LIMIT - 1, Step.ASK_AGAIN),
    "apiserver away for long": (Unsure(""), False, UNSURE_LIMIT, Step.END),
    "apiserver away in the middle": (Unsure(""), True, 900.0, Step.DRAIN),
}


@pytest.mark.parametrize(("reading", "draining", "waited", "step"), STEPS.values(), ids=STEPS.keys())
def test_next_step(reading, draining, waited, step):
    assert decide(reading, draining=draining, waited=waited) is step


def pod(name="p", owner=None, **parts):
    meta = {"name": name, "namespace": "default", "uid": name}
    if owner:
        kind, _, owner_name = owner.partition("/")
        meta["ownerReferences"] = [{"kind": kind, "name": owner_name or "x", "uid": "o", "controller": True}]
    meta |= parts.get("meta", {})
    text = msgspec.json.encode({"metadata": meta, "status": {"phase": parts.get("phase", "Running")}})
    return msgspec.json.decode(text, type=Pod)


ENDING = {"deletionTimestamp": "2026-11-29T00:00:00Z", "deletionGracePeriodSeconds": 30}
HELD_BY_OTHERS = {**ENDING, "deletionGracePeriodSeconds": 0, "finalizers": ["example.com/x"]}
PODS = {
    "of a ReplicaSet": (pod(owner="ReplicaSet"), "wait", (1, 0, 0)),
    "of a Job": (pod(owner="Job"), "wait", (1, 0, 0)),
    "of a StatefulSet": (pod(owner="StatefulSet"), "wait", (1, 0, 0)),
    "of a DaemonSet": (pod(owner="DaemonSet"), "wait", (0, 0, 0)),
    "bare": (pod(), "wait", (0, 1, 0)),
    "bare, by force": (pod(), "evict", (1, 0, 0)),
    "bare, ended": (pod(phase="Succeeded"), "wait", (1, 0, 0)),
    "finished Job's": (pod(owner="Job", phase="Succeeded"), "wait", (1, 0, 0)),
    "on its way out": (pod(owner="ReplicaSet", meta=ENDING), "wait", (0, 0, 1)),
    "bare, on its way out": (pod(meta=ENDING), "wait", (0, 0, 1)),
    "on its way out, with finalizers": (
        pod(meta={**ENDING, "finalizers": ["batch.kubernetes.io/job-tracking"]}),
        "wait",
        (0, 0, 1),
    ),
    "ended here, held by others": (pod(meta=HELD_BY_OTHERS), "wait", (0, 0, 0)),
}


@pytest.mark.parametrize(("found", "bare_pods", "counts"), PODS.values(), ids=PODS.keys())
def test_pods_by_the_rules_of_drain(found, bare_pods, counts):
    todo = to_do([found], bare_pods=bare_pods)
    assert (len(todo.evict), len(todo.bare), todo.ending) == counts
    assert todo.pods == sum(counts)


def test_progress_names_what_it_waits_for():
    assert str(Progress(4, held=1, bare=2, groups=4)) == (
        "4 pods (1 held by disruption budgets, 2 without a controller, waited for), 4 container groups left"
    )
    assert str(Progress(0, held=0, bare=0, groups=1)) == "0 pods, 1 container group left"


MEMBERS = {
    "made by its StatefulSet": (pod("vn-12", owner="StatefulSet/vn"), Member("default", "vn", 12)),
    "of a Deployment, ending in digits": (pod("vn-12", owner="ReplicaSet/vn"), None),
    "orphaned": (pod("vn-12"), None),
}


@pytest.mark.parametrize(("found", "member"), MEMBERS.values(), ids=MEMBERS.keys())
def test_the_agents_place_is_that_of_its_pod(found, member):
    assert member_of_pod(found) == member


def node(*, labels=None, annotations=None, unschedulable=False):
    meta = NodeMeta("vn-2", "u", "7", labels=labels or {}, annotations=annotations or {})
    return NodeObject(meta, NodeSpec(unschedulable=unschedulable))


def test_a_node_tells_the_place_of_its_agent():
    assert member_of_node(node(annotations=annotations_of(THIRD))) == THIRD
    assert member_of_node(node(annotations=annotations_of(None))) is None
    assert member_of_node(node(annotations={"overspill.dev/statefulset": "a/b"})) is None


@pytest.mark.parametrize(("value", "counts"), [("true", True), ("", True), ("false", False), (None, False)])
def test_mark(value, counts):
    labels = {} if value is None else {"overspill.dev/decommission": value}
    assert marked(node(labels=labels)) is counts


def test_what_was_cordoned_here_is_uncordoned_here_and_nothing_else():
    cordon = cordon_patch(node())
    assert cordon["spec"] == {"unschedulable": True}
    ours = node(annotations=cordon["metadata"]["annotations"], unschedulable=True)
    assert cordon_patch(ours) is None
    assert uncordon_patch(ours) == {
        "metadata": {"resourceVersion": "7", "annotations": {"overspill.dev/cordoned-by": None}},
        "spec": {"unschedulable": None},
    }
    theirs = node(unschedulable=True)
    assert cordon_patch(theirs) is None
    assert uncordon_patch(theirs) is None


def test_the_condition_comes_and_goes():
    (told,) = condition_patch(Leave("ScaledIn", "why"), since=30.0, now=60.0)["status"]["conditions"]
    assert (told["type"], told["status"], told["reason"], told["message"]) == (
        "Decommissioning",
        "True",
        "ScaledIn",
        "why",
    )
    (gone,) = condition_patch(None, since=0.0, now=60.0)["status"]["conditions"]
    assert gone == {"type": "Decommissioning", "$patch": "delete"}
