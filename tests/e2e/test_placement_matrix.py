"""The other acceptance scenarios of placement: rollouts, edits, faults, kinds of workloads."""

import collections
import json
import time

import pytest
from placement_world import POOL, TOLERATION, deployment, gated, policy, pool, pool_of, revision, template

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]


def test_01_fewer_than_the_base(space):
    space.policy()
    space.apply(deployment(3))
    space.settled(base=3)


def test_05_down_below_the_base_and_up_again(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.scale(3)
    space.settled(base=3)
    space.scale(20)
    space.settled(base=5, elastic=15)


def test_04_elastic_pods_that_still_wait_for_their_instances_go_first(space):
    """Slow to start are all pods alike; those on the base are made ready by hand."""
    space.policy()
    space.apply(deployment(50, annotations={"simulated.overspill.dev/start-seconds": "600"}))
    space.settled(base=5, elastic=45, running=False)
    space.scale(30)
    space.settled(base=5, elastic=25, running=False)


@pytest.mark.parametrize("space", [5], indirect=True)
def test_07_many_deployments_each_with_a_policy(space):
    names = [f"web-{number}" for number in range(20)]
    space.apply(
        *(
            {**policy(name=name, targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": name})}
            for name in names
        )
    )
    space.apply(*(deployment(5, name=name) for name in names))
    space.settled(base=100)


def test_20_surge_of_all_pods(space):
    space.policy(rollout={"maxSurge": 0})
    space.apply(deployment(20, surge="100%", unavailable=0))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(elastic=20)
    assert "base has 0 of 5" in space.condition("Ready")["message"]
    assert space.ledger.peak["base"] == 5
    rebalance = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 1}
    space.apply(policy(rollout={"maxSurge": 0}, rebalance=rebalance))
    space.settled(base=5, elastic=15)


def test_20_surge_of_all_pods_counted_by_revision(space):
    space.policy()
    space.apply(deployment(20, surge="100%", unavailable=0))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)


def test_21_rollout_of_a_workload_as_large_as_its_base(space):
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5)
    assert space.ledger.peak["base"] <= 7


def test_22_and_25_scaled_while_a_rollout_is_paused_and_resumed(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.world.until(lambda: len({revision(each) for each in space.pods()}) == 2, what="two revisions")
    space.kubectl("rollout", "pause", "deployment/web")
    space.scale(40)
    space.world.until(lambda: len(space.pods()) >= 40, what="40 pods")
    space.kubectl("rollout", "resume", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=35)


def test_23_rolled_back_in_mid_rollout(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.world.until(lambda: len({revision(each) for each in space.pods()}) == 2, what="two revisions")
    space.kubectl("rollout", "undo", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=15)
    costs = {
        pool_of(each): int(each["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"])
        for each in space.pods()
    }
    assert 0 < costs["elastic"] < costs["base"]


def test_24_a_rollout_that_never_gets_ready(space):
    """The Deployment's first step down, of 5 pods, may come before the costs that send the base first."""
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    first = revision(space.pods()[0])
    space.patch_template(**{"simulated.overspill.dev/pull-failures": "always"})

    def stuck():
        found = collections.Counter((revision(each) == first, pool_of(each)) for each in space.pods())
        assert found[False, "base"] == found[False, "elastic"] == 5, dict(found)
        assert found[True, "base"] + found[True, "elastic"] == 15, dict(found)
        return True

    space.world.until(stuck, what="the old revision with 15 pods, the new one with 5 and 5")
    space.kubectl("rollout", "undo", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=15)


def test_26_recreate(space):
    space.policy()
    space.apply(deployment(20, strategy={"type": "Recreate"}))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)


def small(**more):
    return pool("base", 5, nodes="small", **more)


def test_28_looking_for_room_first_deletes_nothing(space):
    space.policy(small(capacityCheck="Simulate"), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    created = len(set().union(*space.ledger.uids.values()))
    assert created == 20
    space.scale(0)
    space.settled()


def test_29_waiting_for_the_base_is_a_choice(space):
    space.policy(small(whenUnschedulable="Wait", unschedulableTimeoutSeconds=1), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=5, elastic=15, running=False)
    space.world.until(
        lambda: sum("nodeName" not in each["spec"] for each in space.pods() if pool_of(each) == "base") == 2,
        what="two base pods that wait",
    )
    space.scale(0)
    space.settled()


def test_30_room_that_comes_later(space):
    space.policy(small(unschedulableTimeoutSeconds=1, cooldownSeconds=2), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    node = space.world.node("small-1", pods=3, taint=False)
    space.world.ready_nodes("small-1")
    try:
        time.sleep(3)  # nothing is to happen: with rebalance disabled, room alone moves nobody
        space.settled(base=3, elastic=17)
        rebalance = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 1}
        space.apply(
            policy(
                small(unschedulableTimeoutSeconds=30, cooldownSeconds=2), pool("elastic"), rebalance=rebalance
            )
        )
        space.settled(base=5, elastic=15)
    finally:
        space.scale(0)
        space.settled()
        node.stop()
        space.cluster.kubectl("delete", "node", "small-1")


def test_31_and_32_drained_nodes(space):
    space.policy(pool("base", 5, unschedulableTimeoutSeconds=2, cooldownSeconds=2), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    with space.world.cordoned("base-0"):
        drain(space, "base-0")
        space.settled(base=5, elastic=15)
        with space.world.cordoned("base-1"):
            drain(space, "base-1")
            space.settled(elastic=20)
    space.settled(elastic=20)
    space.world.until(
        lambda: not space.is_true("PoolUnschedulable"), what="the cool-down's end in the status"
    )
    # The first pod after the cool-down is a probe; once it runs, the others follow.
    space.scale(21)
    space.settled(base=1, elastic=20)
    space.scale(22)
    space.settled(base=2, elastic=20)


def drain(space, node):
    names = [each["metadata"]["name"] for each in space.pods() if each["spec"].get("nodeName") == node]
    if names:
        space.kubectl("delete", "pods", "--wait=false", *names)


def test_33_a_base_node_that_cannot_be_reached(space):
    node = space.world.node("lost-0", pods=50, taint=False)
    space.world.ready_nodes("lost-0")
    tolerations = [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 1,
        }
        for what in ("unreachable", "not-ready")
    ]
    try:
        space.policy(
            pool("base", 5, nodes="lost", unschedulableTimeoutSeconds=2, cooldownSeconds=3600),
            pool("elastic"),
        )
        space.apply(deployment(20, tolerations=tolerations))
        space.settled(base=5, elastic=15)
        node.kill()
        space.cluster.kubectl(
            "taint",
            "node",
            "lost-0",
            "node.kubernetes.io/unreachable=:NoExecute",
            "node.kubernetes.io/unreachable=:NoSchedule",
        )
        space.settled(elastic=20)
        ending = [each for each in space.ledger.pods.values() if "deletionTimestamp" in each["metadata"]]
        assert len(ending) >= 5, "nobody is there to end them, and they count for nothing"
        assert {each["spec"]["nodeName"] for each in ending} == {"lost-0"}
    finally:
        space.cluster.kubectl("delete", "node", "lost-0")


def test_35_spot_without_stock(space):
    node = space.world.node("spot-0", "--backend-option", "stock=3", pods=100)
    space.world.ready_nodes("spot-0")
    try:
        space.policy(
            pool("base", 5),
            pool("spot", 20, unschedulableTimeoutSeconds=2, cooldownSeconds=3600),
            pool("elastic"),
        )
        space.apply(deployment(30))
        space.settled(base=5, spot=3, elastic=22, seconds=120)
        assert "spot" in space.condition("PoolUnschedulable")["message"]
    finally:
        space.scale(0)
        space.settled()
        node.stop()
        space.cluster.kubectl("delete", "node", "spot-0")


def test_36_three_pools(space):
    space.policy(pool("base", 5), pool("middle", 20, nodes="elastic"), pool("elastic"))
    space.apply(deployment(10))
    space.settled(base=5, middle=5)
    for replicas, wanted in (
        (40, {"base": 5, "middle": 20, "elastic": 15}),
        (18, {"base": 5, "middle": 13}),
        (4, {"base": 4}),
    ):
        space.scale(replicas)
        space.settled(**wanted)


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
    space.apply(policy(pool("base", 3), pool("elastic")))
    space.world.until(lambda: space.is_true("OverAssigned"), what="the surplus in the status")
    space.settled(base=8, elastic=12)
    space.scale(10)
    space.settled(base=3, elastic=7)


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
    time.sleep(1.1)  # creation times have whole seconds
    space.policy(pool("base", 1), pool("elastic"), name="younger")
    space.apply(deployment(8))
    space.world.until(lambda: space.is_true("Conflict", name="younger"), what="conflict")
    space.arrived(base=5, elastic=3)
    assert not space.is_true("Conflict")


def test_45_pods_that_fit_only_the_base(space):
    space.policy()
    space.ledger._bound = 7
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


def test_47_a_gate_of_somebody_else(space):
    space.policy()
    space.apply(deployment(7, schedulingGates=[{"name": "somebody.else/wait"}]))
    space.settled(base=5, elastic=2, running=False)
    assert all(each["spec"]["schedulingGates"] == [{"name": "somebody.else/wait"}] for each in space.pods())


def test_48_a_stateful_set_by_its_ordinals(space):
    target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}
    space.policy(pool("base", 3), pool("elastic"), name="db", targetRef=target)
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "db"},
            "spec": {
                "replicas": 10,
                "ordinals": {"start": 5},
                "podManagementPolicy": "Parallel",
                "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}},
                "template": template("db"),
            },
        }
    )
    space.settled(base=3, elastic=7)
    assert on_base(space) == {"db-5", "db-6", "db-7"}
    space.kubectl("delete", "pod", "db-6", "db-12")
    space.settled(base=3, elastic=7)
    assert on_base(space) == {"db-5", "db-6", "db-7"}


def on_base(space):
    return {each["metadata"]["name"] for each in space.pods() if pool_of(each) == "base"}


def test_49_a_job_keeps_its_bound_and_counts_no_failure(space):
    target = {"apiVersion": "batch/v1", "kind": "Job", "name": "work"}
    space.policy(name="work", targetRef=target)
    worker = template("work", annotations={"simulated.overspill.dev/run-seconds": "1"}, restartPolicy="Never")
    space.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "work"},
            "spec": {"parallelism": 12, "completions": 40, "backoffLimit": 0, "template": worker},
        }
    )
    space.kubectl("wait", "--for=condition=complete", "job/work", "--timeout=120s", timeout=130)
    assert space.ledger.violations == []
    assert space.ledger.peak["base"] == 5
    assert len(space.ledger.uids["base"]) > 5


def test_51_what_is_no_workloads_pod_is_left_alone(space):
    space.policy()
    space.apply(deployment(2))
    space.settled(base=2)
    bare = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "labels": {"app": "web"}},
        "spec": template()["spec"],
    }
    dry = space.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(bare))
    assert "schedulingGates" not in json.loads(dry)["spec"]
    space.kubectl("create", "--dry-run=server", "deployment", "other", "--image=x")
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"ds": "x"}},
                "template": {**template(), "metadata": {"labels": {"ds": "x", "app": "web"}}},
            },
        }
    )
    space.world.until(lambda: len(space.pods()) >= 4, what="pods of the DaemonSet")
    daemons = [each for each in space.pods() if each["metadata"]["labels"].get("ds")]
    assert all(POOL not in each["metadata"]["labels"] and not gated(each) for each in daemons)
    space.kubectl("delete", "daemonset", "web")
    space.world.until(lambda: len(space.pods()) == 2, what="the placed pods alone")
    space.check()


def test_54_to_zero_and_back(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.scale(0)
    space.settled()
    space.scale(20)
    space.settled(base=5, elastic=15)
    ranks = sorted(
        int(each["metadata"]["annotations"]["placement.overspill.dev/rank"]) for each in space.pods()
    )
    assert ranks == list(range(1, 21))


def test_base_replicas_annotation(space):
    """The one-line way in; the virtual nodes are told by their label, so all of these nodes are elastic."""
    space.ledger._bound = None
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


def test_10_creates_that_somebody_else_refuses(space):
    """Half of the generated names are refused by another policy, after ours has added the gate."""
    refusal = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": space.name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
            },
            "validations": [{"expression": "!object.metadata.name.matches('[bcdfghjklmnpqr]$')"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": space.name},
        "spec": {"policyName": space.name, "validationActions": ["Deny"]},
    }
    space.policy()
    space.apply(refusal, binding)
    try:
        space.world.until(
            lambda: (
                "denied"
                in space.kubectl_error("create", "--dry-run=server", "-f", "-", stdin=json.dumps(named("b")))
            ),
            what="the refusal in force",
        )
        space.apply(deployment(20))
        for replicas in (21, 20) * 20:  # the ReplicaSet controller backs off; this makes it look again
            if len(space.pods()) >= 20:
                break
            space.scale(replicas)
            time.sleep(0.5)
        space.scale(20)
        space.settled(base=5, elastic=15, seconds=180)
    finally:
        space.cluster.kubectl("delete", "validatingadmissionpolicybinding", space.name)
        space.cluster.kubectl("delete", "validatingadmissionpolicy", space.name)


def named(name):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template()["spec"]}


def test_37_spot_instances_that_are_taken_away(space):
    space.policy(pool("base", 5), pool("middle", 20, nodes="elastic"), pool("elastic"))
    space.apply(deployment(30))
    space.settled(base=5, middle=20, elastic=5)
    before = {each["metadata"]["uid"] for each in space.pods() if pool_of(each) == "base"}
    taken = [each["metadata"]["name"] for each in space.pods() if pool_of(each) == "middle"][:10]
    space.kubectl("delete", "pods", "--wait=false", *taken)
    space.world.until(
        lambda: not {each["metadata"]["name"] for each in space.pods()} & set(taken), what="pods gone"
    )
    space.settled(base=5, middle=20, elastic=5)
    assert {each["metadata"]["uid"] for each in space.pods() if pool_of(each) == "base"} == before


def test_50_the_pods_of_an_argo_rollout(space):
    """Its controller is not here; what it makes are ReplicaSets with its own hash label, two of them at blue/green."""
    target = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop"}
    space.policy(name="shop", targetRef=target)
    space.apply(*(argo_replica_set(number) for number in (1, 2)))
    space.settled(base=10, elastic=10)
    assert space.ledger.peak["base of one revision"] == 5
    space.kubectl("delete", "replicaset", "shop-hash1")
    space.settled(base=5, elastic=5)


def argo_replica_set(number):
    labels = {"app": "shop", "rollouts-pod-template-hash": f"hash{number}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"shop-hash{number}",
            "annotations": {"rollout.argoproj.io/revision": str(number)},
            "labels": labels,
        },
        "spec": {
            "replicas": 10,
            "selector": {"matchLabels": labels},
            "template": {**template("shop"), "metadata": {"labels": labels}},
        },
    }
