"""Admission: the kubelet's order and words, and totals that stay right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from podmaking import make_pod

from overspill.agent.admission import UNSUPPORTED, Admission, Amounts, Refusal, requests
from overspill.backends.base import Capabilities
from overspill.model.affinity import Taint

LABELS = {"type": "virtual-kubelet"}
ROOM = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "3"}


def make_admission(*, taints=(), pod_fields=(), **room) -> Admission:
    return Admission(
        node_name="vn-0",
        labels=LABELS,
        allocatable=ROOM | room,
        capabilities=Capabilities(frozenset(pod_fields), frozenset()),
        taints=taints,
    )


def asking(uid="uid-1", host_port=0, **requested):
    ports = [{"containerPort": 80, "hostPort": host_port}] if host_port else []
    return make_pod({"resources": {"requests": requested}, "ports": ports}, uid=uid)


DAEMON = [{"kind": "DaemonSet", "name": "proxy", "uid": "d", "apiVersion": "apps/v1", "controller": True}]
ELSEWHERE = {"nodeSelector": {"type": "real"}}


@pytest.mark.parametrize(
    ("pod", "reason", "message"),
    [
        (
            asking(cpu="4001m"),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 4001, used: 0, capacity: 4000",
        ),
        (
            asking(memory="9Gi"),
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 9663676416, used: 0, capacity: 8589934592",
        ),
        (
            asking(**{"ephemeral-storage": "11Gi"}),
            "OutOfephemeral-storage",
            "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240",
        ),
        (
            make_pod(**ELSEWHERE),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            make_pod(nodeName="vn-1"),
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        ),
        (
            make_pod(os={"name": "windows"}),
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
        # The first of several reasons is the one that is told.
        (make_pod({"resources": {"requests": {"cpu": "5", "memory": "9Gi"}}}, **ELSEWHERE), "OutOfcpu", None),
    ],
)
def test_refusals_in_the_kubelets_words(pod, reason, message):
    refusal = make_admission().admit(pod)
    assert refusal is not None
    assert (refusal.reason, refusal.terminal) == (reason, True)
    assert message in {None, refusal.message}


def test_a_node_that_goes_starts_no_pod_and_ends_none():
    admission = make_admission()
    admission.closed = "scaled in"
    assert admission.admit(asking()) == Refusal("NodeDecommissioning", "scaled in", terminal=False)


def test_a_pod_that_fits_exactly_is_admitted():
    assert make_admission().admit(asking(cpu="4", memory="8Gi", **{"ephemeral-storage": "10Gi"})) is None


def test_pods_are_counted():
    admission = make_admission()
    assert [admission.admit(make_pod(uid=str(n))) for n in range(3)] == [None] * 3
    refusal = admission.admit(make_pod(uid="one too many"))
    assert refusal.reason == "OutOfpods"
    assert refusal.message == "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
    admission.release("1")
    assert admission.admit(make_pod(uid="one too many")) is None


def test_what_admitted_pods_take_is_no_longer_there_until_they_go():
    admission = make_admission()
    assert admission.admit(asking("a", cpu="3")) is None
    assert admission.admit(asking("b", cpu="2")).message.endswith(
        "requested: 2000, used: 3000, capacity: 4000"
    )
    admission.release("a")
    admission.release("a")
    admission.release("never heard of")
    assert admission.admit(asking("b", cpu="4")) is None


def test_a_pod_counts_once():
    admission = make_admission()
    for _ in range(5):
        assert admission.admit(asking("a", cpu="3")) is None
        admission.adopt(asking("a", cpu="3"))
    assert admission.admit(asking("b", cpu="1")) is None


def test_a_refused_pod_does_not_count():
    admission = make_admission()
    assert admission.admit(asking("a", cpu="5")) is not None
    assert admission.admit(asking("b", cpu="4")) is None


def test_a_pod_that_asks_for_nothing_fits_a_node_that_is_too_full():
    admission = make_admission()
    admission.adopt(asking("found running", cpu="7"))
    assert admission.admit(asking("b")) is None
    assert admission.admit(asking("c", cpu="1m")).reason == "OutOfcpu"


def test_a_host_port_is_given_once():
    admission = make_admission(pod_fields=["containers[].ports[].hostPort"])
    assert admission.admit(asking("a", host_port=8080)) is None
    assert admission.admit(asking("b", host_port=8081)) is None
    refusal = admission.admit(asking("c", host_port=8080))
    assert (
        refusal.message
        == "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    )
    admission.release("a")
    assert admission.admit(asking("c", host_port=8080)) is None


def test_the_nodes_labels_and_taints_may_change():
    admission = make_admission()
    admission.node_changed({"type": "real"}, [Taint("gone", "NoExecute"), Taint("full", "NoSchedule")])
    refusal = admission.admit(make_pod(**ELSEWHERE))
    assert (
        refusal.message == "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
    )
    assert admission.admit(make_pod(tolerations=[{"key": "gone", "operator": "Exists"}], **ELSEWHERE)) is None


def test_a_daemon_sets_pod_is_told_why_it_does_not_run():
    refusal = make_admission().admit(make_pod(owners=DAEMON, tolerations=[{"operator": "Exists"}]))
    assert (refusal.reason, refusal.terminal) == ("DaemonSetNotSupported", True)
    assert "type NotIn [virtual-kubelet]" in refusal.message


def test_fields_that_nobody_honours_are_all_named_and_the_pod_waits():
    pod = make_pod({"livenessProbe": {"exec": {"command": ["x"]}}}, hostNetwork=True)
    refusal = make_admission().admit(pod)
    assert (refusal.reason, refusal.terminal) == (UNSUPPORTED, False)
    assert "spec.containers[0].livenessProbe" in refusal.message
    assert "spec.hostNetwork" in refusal.message
    assert make_admission(pod_fields=["containers[].livenessProbe.*"]).admit(pod).message.count("spec.") == 1


def test_a_value_of_a_later_kubernetes_is_named_and_the_pod_waits():
    refusal = make_admission().admit(make_pod({"imagePullPolicy": "WhenCheap"}))
    assert (refusal.reason, refusal.terminal) == (UNSUPPORTED, False)
    assert refusal.message.endswith(
        "Invalid enum value 'WhenCheap' - at `spec.containers[0].imagePullPolicy`"
    )


def test_an_init_container_counts_where_it_takes_more_than_the_others_together():
    big = {"name": "init", "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}
    small = {"name": "more", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}
    one = {"resources": {"requests": {"cpu": "1", "memory": "3Gi"}}}
    pod = make_pod(one, {"name": "b", **one}, initContainers=[big, small], overhead={"cpu": "100m"})
    assert requests(pod.decoded_spec()) == Amounts(3100, 6 << 30, 0)


def test_a_sidecar_counts_beside_the_containers():
    sidecar = {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    pod = make_pod({"resources": {"requests": {"cpu": "2", "memory": "1"}}}, initContainers=[sidecar])
    assert requests(pod.decoded_spec()) == Amounts(3000, 1, 0)


STEP = st.tuples(
    st.sampled_from("abcdefgh"), st.sampled_from(["admit", "adopt", "release"]), st.integers(0, 3000)
)


@given(st.lists(STEP, max_size=40))
def test_whatever_comes_and_goes_the_totals_are_those_of_who_is_there(steps):
    admission = make_admission(pods="5")
    there: dict[str, int] = {}
    for uid, step, millis in steps:
        pod = asking(uid, cpu=f"{millis}m")
        if step == "release":
            admission.release(uid)
            there.pop(uid, None)
        elif step == "adopt":
            admission.adopt(pod)
            there.setdefault(uid, millis)
        else:
            fits = len(there) < 5 and (millis == 0 or millis <= 4000 - sum(there.values()))
            assert (admission.admit(pod) is None) is (uid in there or fits)
            if fits:
                there.setdefault(uid, millis)
