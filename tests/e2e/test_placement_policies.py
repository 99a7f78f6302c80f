"""Acceptance scenarios of placement: policies that are edited, late, suspended, in each other's way; pods with wishes of their own."""

import time

import pytest
from placement_ledger import gated, pool_of
from placement_manifests import TOLERATION, deployment, policy, pool

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]

EVICT = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 1}


@pytest.mark.parametrize("space", [8], indirect=True)
def test_39_and_40_the_limit_is_edited(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.apply(policy(pool("base", 8), pool("elastic")))
    space.world.until(lambda: pools(space)["base"]["desiredReplicas"] == 8, what="status of the new limit")
    space.settled(base=5, elastic=15)
    space.scale(23)
    space.settled(base=8, elastic=15)
    space.scale(20)
    space.settled(base=8, elastic=12)
    space.ledger.bound = 3
    space.apply(policy(pool("base", 3), pool("elastic")))
    space.world.until(lambda: space.is_true("OverAssigned"), what="the surplus in the status")
    space.settled(base=8, elastic=12)
    space.scale(10)
    space.settled(base=3, elastic=7)


@pytest.mark.parametrize("space", [8], indirect=True)
def test_39_the_limit_is_edited_and_pods_are_moved(space):
    space.policy(rebalance=EVICT)
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.ledger.watch_ready()
    space.apply(policy(pool("base", 8), pool("elastic"), rebalance=EVICT))
    space.settled(base=8, elastic=12)
    assert space.ledger.least_ready >= 19


@pytest.mark.parametrize("space", [8], indirect=True)
def test_pods_are_moved_as_their_disruption_budget_allows(space):
    space.policy(rebalance=EVICT)
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
        }
    )
    budget = ("pdb", "web", "-n", space.name)
    space.world.until(
        lambda: space.cluster.get(*budget).get("status", {}).get("expectedPods") == 20, what="budget"
    )
    space.apply(policy(pool("base", 8), pool("elastic"), rebalance=EVICT))
    space.world.until(
        lambda: space.kubectl("get", "events", "--field-selector=reason=RebalanceWaits", "-o", "name"),
        what="an Event that says what it waits for",
    )
    space.settled(base=5, elastic=15)
    space.kubectl("delete", "pdb", "web")
    space.settled(base=8, elastic=12)


def pools(space):
    return {
        each["name"]: each for each in space.cluster.get("pp", "web", "-n", space.name)["status"]["pools"]
    }


@pytest.mark.parametrize("space", [12], indirect=True)
def test_41_pods_that_were_there_before_the_policy(space):
    with space.world.cordoned("small-0", "elastic-0"):
        space.apply(deployment(12, tolerations=[TOLERATION]))
        space.world.until(lambda: space.bound() == 12, what="12 pods on the base")
    with space.world.cordoned("small-0", "base-0", "base-1"):
        space.scale(20)
        space.world.until(lambda: space.bound() == 20, what="8 pods elsewhere")
    space.policy()
    space.settled(base=12, elastic=8)
    assert space.is_true("OverAssigned")
    space.scale(15)
    space.settled(base=7, elastic=8)
    space.scale(10)
    space.settled(base=5, elastic=5)


def test_43_suspended_and_resumed(space):
    space.policy(suspend=True)
    with space.world.cordoned("small-0"):  # a node of no pool of this policy
        space.apply(deployment(5))
        space.world.until(lambda: space.bound() == 5, what="pods")
    assert set(space.counts()) == {None}
    space.apply(policy(suspend=False))
    space.world.until(lambda: space.counts() == {"base": 5}, what="pods that were adopted")
    space.scale(12)
    space.settled(base=5, elastic=7)


def test_44_two_policies_for_one_workload(space):
    space.policy()
    second = int(time.time())
    space.world.until(
        lambda: time.time() >= second + 1, what="another second, in which creation times are told"
    )
    space.policy(pool("base", 1), pool("elastic"), name="younger")
    space.apply(deployment(8))
    space.world.until(lambda: space.is_true("Conflict", name="younger"), what="conflict")
    space.arrived(base=5, elastic=3)
    assert not space.is_true("Conflict")


def test_45_pods_that_fit_only_the_base(space):
    space.policy()
    space.ledger.bound = 7
    space.apply(deployment(7, nodeSelector={"pool": "base"}))
    space.settled(base=7)
    events = space.kubectl("get", "events", "--field-selector=reason=PoolConflict", "-o", "name").split()
    assert len(events) == 2


def test_46_alternatives_of_the_users_own(space):
    terms = [
        {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": [name]}]}
        for name in ("linux", "plan9")
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    base = {"key": "pool", "operator": "In", "values": ["base"]}
    by_affinity = {"name": "base", "maxReplicas": 5, "nodeAffinity": {"matchExpressions": [base]}}
    space.policy(by_affinity, pool("elastic"))
    space.apply(deployment(20, affinity={"nodeAffinity": required}))
    space.settled(base=5, elastic=15)
    on_base = next(each for each in space.pods() if pool_of(each) == "base")
    found = on_base["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert [base in term["matchExpressions"] for term in found["nodeSelectorTerms"]] == [True, True]


def test_base_replicas_annotation(space):
    """The one-line way in; the virtual nodes are told by their label, so all of these nodes are elastic."""
    space.ledger.bound = 2
    manifest = deployment(3)
    manifest["metadata"]["annotations"] = {"overspill.dev/base-replicas": "2"}
    space.apply(manifest)
    space.world.until(
        lambda: space.counts() == {"base": 2, "elastic": 1}, what="pods that are placed from the first"
    )
    owner = space.cluster.get("pp", "web", "-n", space.name)["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Deployment", "web")
    space.kubectl("annotate", "deployment", "web", "overspill.dev/base-replicas=30%", "--overwrite")
    space.world.until(
        lambda: space.cluster.get("pp", "web", "-n", space.name)["spec"]["pools"][0]["maxReplicas"] == "30%",
        what="edit",
    )
    space.kubectl("annotate", "deployment", "web", "overspill.dev/base-replicas-")
    space.world.until(lambda: not space.cluster.get("pp", "-n", space.name), what="policy that is gone")
    (replica_set,) = space.cluster.get("rs", "-n", space.name)
    space.scale(5)  # the template has its mark still: without one it would be another revision
    space.world.until(
        lambda: len(space.pods()) == 5 and not any(map(gated, space.pods())), what="pods that are let go"
    )
    assert [each["metadata"]["uid"] for each in space.cluster.get("rs", "-n", space.name)] == [
        replica_set["metadata"]["uid"]
    ]


def test_a_pod_that_waited_too_long_is_let_go(space):
    space.policy(pool("base", 2), gate={"timeoutSeconds": 2, "onTimeout": "Release"})
    space.apply(deployment(4))
    space.world.until(
        lambda: not any(map(gated, space.pods())) and len(space.pods()) == 4, what="pods let go", seconds=30
    )


def test_explain_and_release(space):
    space.policy(pool("base", 2), pool("elastic", 1))
    space.apply(deployment(4))
    space.world.until(lambda: space.is_true("Waiting"), what="a pod that waits")
    waiting = next(each["metadata"]["name"] for each in space.pods() if gated(each))
    said = space.placement("explain", waiting)
    assert "pool base has as many pods as it takes" in said
    assert "pool elastic has as many pods as it takes" in said
    placed = next(each["metadata"]["name"] for each in space.pods() if pool_of(each) == "elastic")
    assert "keep rank 3" in space.placement("explain", placed)
    told = space.placement("status")
    assert "elastic" in told
    assert "works; it renewed Lease kube-system/overspill-controller" in told
    assert space.placement("release", f"pod/{waiting}") == f"pod {space.name}/{waiting} released\n"
    assert space.placement("release", placed) == f"pod {space.name}/{placed} does not wait\n"
    assert space.placement("release") == f"No pod waits in namespace {space.name}.\n"
    space.world.until(lambda: not any(map(gated, space.pods())), what="no gate left")


def test_a_pools_labels_never_take_a_pod_from_its_workload(space):
    """A ReplicaSet whose pods do not match its selector any more would make others, without end."""
    labels = {"metadata": {"labels": {"app": "other", "tier": "own"}}}
    space.policy(pool("base", 5, patch=labels), pool("elastic"))
    space.apply(deployment(7))
    space.settled(base=5, elastic=2)
    base = [each["metadata"]["labels"] for each in space.pods() if pool_of(each) == "base"]
    assert {(each["app"], each["tier"]) for each in base} == {("web", "own")}
    events = space.kubectl("get", "events", "--field-selector=reason=LabelsKept", "-o", "name").split()
    assert len(events) == 5
