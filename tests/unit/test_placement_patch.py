"""The one patch of a pod."""

import msgspec
import pytest

import placing
from overspill import names
from overspill.placement.patch import kept_labels, mark, marks, place, release

POLICY = placing.policy(
    placing.pool("base", 5),
    placing.pool("elastic", patch={"metadata": {"annotations": {"a/b~c": "x"}, "labels": {"tier": "burst"}}}),
)
BASE, ELASTIC = POLICY.spec.pools
TERMS = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms"
NOT_VIRTUAL = {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}


def required(*terms):
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}
    }


def operations(pod, pool, **fields):
    return msgspec.json.decode(
        msgspec.json.encode(place(pod, pool, *marks("web", pool, rank=7, cost=999_993, **fields)))
    )


def values(found):
    return {each["path"]: each.get("value") for each in found}


def test_the_whole_patch():
    assert operations(placing.gated("p", version=41), ELASTIC) == [
        {"op": "add", "path": "/metadata/uid", "value": "p"},
        {"op": "add", "path": "/metadata/resourceVersion", "value": "41"},
        {"op": "add", "path": "/spec/schedulingGates", "value": []},
        {"op": "add", "path": "/spec/nodeSelector", "value": {"type": "virtual-kubelet"}},
        {
            "op": "add",
            "path": "/spec/tolerations",
            "value": [{"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}],
        },
        {
            "op": "add",
            "path": "/metadata/labels",
            "value": {"tier": "burst", names.POLICY_LABEL: "web", names.POOL_LABEL: "elastic"},
        },
        {
            "op": "add",
            "path": "/metadata/annotations",
            "value": {"a/b~c": "x", names.RANK_ANNOTATION: "7", names.DELETION_COST: "999993"},
        },
    ]


def test_what_the_pod_has_is_added_to_not_replaced():
    pod = placing.gated(
        "p",
        gates=[{"name": "other/gate"}],
        labels={"app": "web"},
        annotations={"own": "1"},
        nodeSelector={"disk": "ssd"},
        tolerations=[{"key": "k", "operator": "Exists"}],
    )
    found = values(operations(pod, ELASTIC))
    assert set(found) == {
        "/metadata/uid",
        "/metadata/resourceVersion",
        "/spec/schedulingGates",
        "/spec/nodeSelector/type",
        "/spec/tolerations/-",
        "/metadata/labels/tier",
        "/metadata/labels/placement.overspill.dev~1policy",
        "/metadata/labels/placement.overspill.dev~1pool",
        "/metadata/annotations/a~1b~0c",
        "/metadata/annotations/placement.overspill.dev~1rank",
        "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost",
    }


def test_a_toleration_that_is_there_is_not_added():
    pod = placing.gated("p", tolerations=list(ELASTIC.tolerations))
    assert "/spec/tolerations/-" not in values(operations(pod, ELASTIC))


ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
FIELD = {"key": "metadata.name", "operator": "In", "values": ["n"]}


@pytest.mark.parametrize(
    ("affinity", "wanted"),
    [
        pytest.param(None, {"/spec/affinity": required({"matchExpressions": [NOT_VIRTUAL]})}, id="none"),
        pytest.param(
            {"podAntiAffinity": {}},
            {"/spec/affinity/nodeAffinity": required({"matchExpressions": [NOT_VIRTUAL]})["nodeAffinity"]},
            id="of another kind",
        ),
        pytest.param(
            {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            {TERMS.rpartition("/")[0]: {"nodeSelectorTerms": [{"matchExpressions": [NOT_VIRTUAL]}]}},
            id="only preferred",
        ),
        pytest.param(
            required({"matchExpressions": [ZONE]}, {"matchExpressions": [ZONE]}),
            {f"{TERMS}/0/matchExpressions/-": NOT_VIRTUAL, f"{TERMS}/1/matchExpressions/-": NOT_VIRTUAL},
            id="every alternative",
        ),
        pytest.param(
            required({"matchFields": [FIELD]}),
            {f"{TERMS}/0/matchExpressions": [NOT_VIRTUAL]},
            id="only fields",
        ),
        pytest.param(
            required({}, {"matchExpressions": [ZONE]}),
            {f"{TERMS}/1/matchExpressions/-": NOT_VIRTUAL},
            id="an empty one matches nothing",
        ),
        pytest.param(required({"matchExpressions": [NOT_VIRTUAL]}), {}, id="there already"),
    ],
)
def test_affinity(affinity, wanted):
    pod = placing.gated("p", **({"affinity": affinity} if affinity else {}))
    found = values(operations(pod, BASE))
    assert {path: value for path, value in found.items() if path.startswith("/spec/affinity")} == wanted


def test_a_placed_pod_is_written_only_when_something_changes():
    pod = placing.placed("p", "base", 3)
    assert mark(pod, *marks("web", BASE, rank=3, cost=999_997)) == []
    assert values(mark(pod, *marks("web", BASE, rank=3, cost=-3))) == {
        "/metadata/uid": "p",
        "/metadata/resourceVersion": "1",
        "/metadata/annotations/placement.overspill.dev~1rank": "3",
        "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost": "-3",
    }


def test_a_users_own_deletion_cost_is_left():
    labels, annotations = marks("web", BASE, rank=3, cost=None)
    assert names.DELETION_COST not in annotations
    assert labels == {names.POLICY_LABEL: "web", names.POOL_LABEL: "base"}


def test_a_name_that_no_label_takes_is_left_out():
    assert marks("w" * 63, BASE)[0][names.POLICY_LABEL] == "w" * 63
    assert marks("w" * 64, BASE)[0] == {names.POOL_LABEL: "base"}


def test_release_takes_the_gate_alone():
    pod = placing.gated("p", gates=[{"name": "other/gate"}])
    assert values(msgspec.to_builtins(release(pod))) == {
        "/metadata/uid": "p",
        "/metadata/resourceVersion": "1",
        "/spec/schedulingGates": [{"name": "other/gate"}],
    }


def test_labels_that_the_pod_has_are_kept():
    """They may be what its workload knows it by."""
    of_another = placing.gated("p", labels={"tier": "own", "app": "web"})
    assert kept_labels(of_another, ELASTIC) == ["tier"]
    found = values(operations(of_another, ELASTIC))
    assert "/metadata/labels/tier" not in found
    assert found["/metadata/labels/placement.overspill.dev~1pool"] == "elastic"
    assert kept_labels(placing.gated("p", labels={"tier": "burst"}), ELASTIC) == []
    assert kept_labels(placing.gated("p"), ELASTIC) == []
