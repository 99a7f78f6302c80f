"""Which policy a pod belongs to."""

import msgspec
import pytest

import placing
from overspill.placement.index import index_of
from overspill.placement.match import Directory, target_key, workload_keys
from overspill.placement.workloads import ReplicaSet, ReplicaSetMeta, Revisions
from placement_cases import CASES


def in_namespace(manifest):
    manifest = {**manifest, "metadata": {**manifest["metadata"], "namespace": "a", "uid": "p"}}
    return placing.decoded(manifest)


@pytest.mark.parametrize(("spec", "manifest", "wanted"), CASES)
def test_matching(spec, manifest, wanted):
    directory = Directory()
    policy = placing.policy(**spec)
    directory.put(policy)
    pod = in_namespace(manifest)
    assert directory.matching(pod) == ([policy] if wanted else [])
    if policy.spec.target_ref is not None:
        key = index_of([policy])["workloads"].strip()
        assert (key in workload_keys(pod)) == wanted
        assert key == target_key(policy)


def test_the_oldest_decides_and_another_namespace_has_no_say():
    directory = Directory()
    young = placing.policy(name="a", created="2026-01-02T00:00:00Z")
    old = placing.policy(name="z", created="2026-01-01T00:00:00Z")
    for each in (young, old, placing.policy(name="other", namespace="b", created="2025-01-01T00:00:00Z")):
        directory.put(each)
    pod = placing.gated("p", owner="web-1", labels={"pod-template-hash": "1"})
    assert [each.metadata.name for each in directory.matching(pod)] == ["z", "a"]
    directory.remove("a", "z")
    assert [each.metadata.name for each in directory.matching(pod)] == ["a"]
    directory.put(placing.policy(name="a", targetRef={"name": "elsewhere"}))
    assert directory.matching(pod) == []


def test_suspended_and_deleted_policies_are_not_in_the_index():
    away = placing.policy(name="b", suspend=True)
    going = placing.policy(name="c", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert index_of([away, going]) == {"workloads": "", "selectors": []}
    labels = placing.policy(name="d", selector={"matchLabels": {"x": "y"}})
    assert index_of([labels])["selectors"] == [{"policy": "d", "matchLabels": {"x": "y"}}]


def replica_set(name, revision, *, owner="d", replicas=1, kind="Deployment"):
    annotation = {"Deployment": "deployment.kubernetes.io", "Rollout": "rollout.argoproj.io"}[kind]
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "a",
                "annotations": {f"{annotation}/revision": str(revision)},
                "ownerReferences": [{"kind": kind, "name": "web", "uid": owner, "controller": True}],
            },
            "spec": {"replicas": replicas},
        },
        ReplicaSet,
    )


def test_the_newest_revision_by_its_number():
    revisions = Revisions()
    assert revisions.put(replica_set("one", 1)) == set()
    assert not revisions.is_old("a", "one")
    assert revisions.put(replica_set("two", 2)) == {("a", "one")}
    assert revisions.is_old("a", "one")
    assert revisions.put(replica_set("other", 1, owner="e")) == set()
    assert not revisions.is_old("a", "other")
    # What `kubectl rollout undo` does: the old one gets the next number.
    assert revisions.put(replica_set("one", 3)) == {("a", "one"), ("a", "two")}
    assert (revisions.is_old("a", "one"), revisions.is_old("a", "two")) == (False, True)
    assert revisions.remove("a", "one") == {("a", "two")}
    assert not revisions.is_old("a", "two")
    assert not revisions.is_old("a", "unknown")


@pytest.mark.parametrize(("kind", "old"), [("Rollout", False), ("Deployment", True)])
def test_an_aborted_rollouts_newest_revision_has_no_pods_and_no_say(kind, old):
    """A Deployment's without pods is the one that begins, if nothing is to surge."""
    revisions = Revisions()
    revisions.put(replica_set("stable", 3, kind=kind))
    revisions.put(replica_set("canary", 4, kind=kind))
    assert revisions.is_old("a", "stable")
    flipped = revisions.put(replica_set("canary", 4, kind=kind, replicas=0))
    assert revisions.is_old("a", "stable") == old
    assert flipped == (set() if old else {("a", "stable")})
    assert not revisions.is_old("a", "canary")


def test_a_replica_set_of_nobody_is_never_old():
    revisions = Revisions()
    assert revisions.put(ReplicaSet(ReplicaSetMeta("alone", "a"))) == set()
    assert not revisions.is_old("a", "alone")
