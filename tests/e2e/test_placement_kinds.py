"""Acceptance scenarios of placement: StatefulSets, Jobs, Argo Rollouts, CloneSets, and pods that are none of its business."""

import contextlib
import json

import pytest
from placement_ledger import COST, gated, pool_of, revision
from placement_manifests import deployment, pool, template

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]


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


def job(name, *, parallelism, completions):
    worker = template(name, annotations={"simulated.overspill.dev/run-seconds": "1"}, restartPolicy="Never")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "parallelism": parallelism,
            "completions": completions,
            "backoffLimit": 0,
            "template": worker,
        },
    }


def test_49_a_job_keeps_its_bound_and_counts_no_failure(space):
    target = {"apiVersion": "batch/v1", "kind": "Job", "name": "work"}
    space.policy(name="work", targetRef=target)
    space.apply(job("work", parallelism=20, completions=100))
    space.kubectl("wait", "--for=condition=complete", "job/work", "--timeout=200s", timeout=210)
    assert space.ledger.peak["base"] == 5
    assert len(space.ledger.uids["base"]) > 5, "places that came free were taken again"
    assert space.ledger.created == 100, "no pod was deleted and made anew"


def test_49_a_jobs_pods_are_never_moved_when_their_pool_is_full(space):
    """To delete one would be a failure of the Job; so two wait for the three others to end."""
    target = {"apiVersion": "batch/v1", "kind": "Job", "name": "work"}
    base = pool("base", 5, nodes="small", unschedulableTimeoutSeconds=1)
    space.policy(base, pool("elastic"), name="work", targetRef=target)
    space.apply(job("work", parallelism=20, completions=20))
    space.kubectl("wait", "--for=condition=complete", "job/work", "--timeout=100s", timeout=110)
    assert space.cluster.get("job", "work", "-n", space.name)["status"].get("failed", 0) == 0
    assert {name: len(uids) for name, uids in space.ledger.uids.items() if name} == {"base": 5, "elastic": 15}


@contextlib.contextmanager
def defined(space, kind, group):
    """A kind of somebody else's, whose controller is not here; and one object of it, whose uid is given."""
    plural, version = f"{kind.lower()}s", "v1alpha1"
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    name = f"{plural}.{group}"
    space.cluster.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": group,
                "names": {"kind": kind, "plural": plural},
                "scope": "Namespaced",
                "versions": [{"name": version, "served": True, "storage": True, "schema": anything}],
            },
        }
    )
    space.cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    try:
        space.apply({"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "shop"}})
        yield space.cluster.get(name, "shop", "-n", space.name)["metadata"]["uid"]
    finally:
        space.cluster.kubectl("delete", "crd", name)


def test_50_an_argo_rollout_from_blue_to_green(space):
    """Argo's controller is not here; what it makes is: a Rollout's ReplicaSets, with its own hash label."""
    target = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop"}
    space.policy(name="shop", targetRef=target)
    with defined(space, "Rollout", "argoproj.io") as owner:
        space.apply(argo_replica_set(1, owner))
        space.settled(base=5, elastic=5)
        space.apply(argo_replica_set(2, owner))
        space.settled(base=10, elastic=10)
        assert space.ledger.peak["base of one revision"] == 5
        space.kubectl("scale", "replicaset/shop-hash1", "--replicas=0")
        space.settled(base=5, elastic=5)
        assert {revision(each) for each in space.pods()} == {"shop-hash2"}


def test_pods_of_a_clone_set_count_in_total(space):
    """In-place updates change their revision and not the pod, so there is one count; its costs are honoured."""
    target = {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "shop"}
    space.policy(pool("base", 2), pool("elastic"), name="shop", targetRef=target)
    with defined(space, "CloneSet", "apps.kruise.io") as owner:
        space.apply(*(pod_of_clone_set(number, {**target, "uid": owner}) for number in range(5)))
        space.settled(base=2, elastic=3)
        assert len({each["metadata"]["annotations"][COST] for each in space.pods()}) == 5
        assert space.ranks() == [1, 2, 3, 4, 5]


def pod_of_clone_set(number, owner):
    revision = {"controller-revision-hash": str(number % 2)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        **template("shop"),
        "metadata": {
            "name": f"shop-{number}",
            "labels": revision,
            "ownerReferences": [{**owner, "controller": True}],
        },
    }


def test_a_cron_jobs_pods_count_over_all_its_jobs(space):
    target = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "report"}
    space.policy(pool("base", 2), pool("elastic"), name="report", targetRef=target)
    space.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "report"},
            "spec": {
                "schedule": "@yearly",
                "suspend": True,
                "jobTemplate": {
                    "spec": {"parallelism": 3, "template": template("report", restartPolicy="Never")}
                },
            },
        }
    )
    for number in (1, 2):
        space.kubectl("create", "job", f"report-{number}", "--from=cronjob/report")
    space.settled(base=2, elastic=4)


def argo_replica_set(number, rollout):
    labels = {"app": "shop", "rollouts-pod-template-hash": f"hash{number}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"shop-hash{number}",
            "ownerReferences": [
                {
                    "apiVersion": "argoproj.io/v1alpha1",
                    "kind": "Rollout",
                    "name": "shop",
                    "uid": rollout,
                    "controller": True,
                }
            ],
            "annotations": {"rollout.argoproj.io/revision": str(number)},
            "labels": labels,
        },
        "spec": {
            "replicas": 10,
            "selector": {"matchLabels": labels},
            "template": {**template("shop"), "metadata": {"labels": labels}},
        },
    }


def test_51_what_is_no_workloads_pod_is_left_alone(space):
    space.policy()
    space.apply(deployment(2))
    space.settled(base=2)
    one = space.pods()[0]
    dry = {key: one["metadata"][key] for key in ("labels", "ownerReferences")}
    dry = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dry", **dry}, "spec": template()["spec"]}
    said = space.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(dry))
    assert gated(json.loads(said)), "it would be placed"
    space.kubectl("debug", one["metadata"]["name"], "--copy-to=copied", "--image=x", "--container=debugger")
    space.kubectl("run", "bare", "--image=x", "--labels=app=other")
    daemon = {**template(), "metadata": {"labels": {"ds": "x", "app": "web"}}}
    selector = {"matchLabels": {"ds": "x"}}
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "web"},
            "spec": {"selector": selector, "template": daemon},
        }
    )
    # Virtual nodes refuse a DaemonSet's pods, which are made again and again.
    space.world.until(lambda: len(space.ledger.everybody) >= 6, what="two by hand, and the DaemonSet's")
    others = [each for each in space.cluster.get("pods", "-n", space.name) if pool_of(each) is None]
    assert {each["metadata"]["name"] for each in others} > {"copied", "bare"}
    assert not any(map(gated, others))
    space.check()
    assert space.cluster.get("pp", "web", "-n", space.name)["status"]["replicas"] == 2
