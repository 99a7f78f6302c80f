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


def replica_set(name, revision, *, owner="d"):
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "a",
                "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": owner, "controller": True}],
            }
        },
        ReplicaSet,
    )


def test_the_newest_revision_by_its_number():
    revisions = Revisions()
    assert revisions.put(replica_set("one", 1)) == [("a", "one")]
    assert not revisions.is_old("a", "one")
    assert sorted(revisions.put(replica_set("two", 2))) == [("a", "one"), ("a", "two")]
    assert revisions.is_old("a", "one")
    assert revisions.put(replica_set("other", 1, owner="e")) == [("a", "other")]
    assert not revisions.is_old("a", "other")
    # What `kubectl rollout undo` does: the old one gets the next number.
    assert sorted(revisions.put(replica_set("one", 3))) == [("a", "one"), ("a", "two")]
    assert (revisions.is_old("a", "one"), revisions.is_old("a", "two")) == (False, True)
    revisions.remove("a", "one")
    assert not revisions.is_old("a", "two")
    assert not revisions.is_old("a", "unknown")


def test_a_replica_set_of_nobody_is_never_old():
    revisions = Revisions()
    assert revisions.put(ReplicaSet(ReplicaSetMeta("alone", "a"))) == []
    assert not revisions.is_old("a", "alone")
