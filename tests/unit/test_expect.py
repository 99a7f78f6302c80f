"""The walkthrough's judgments."""

import pytest

from overspill.local import expect
from overspill.local.walkthrough import _column


def node(name, status="True"):
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": status}]
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def pod(name, on="n0", *, address="", phase="Running", ready=True, waiting="", leaving=False):
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"} | ({"deletionTimestamp": "now"} if leaving else {}),
        "spec": {"nodeName": on, "containers": [{"name": "web"}]},
        "status": {"phase": phase, "podIP": address, "containerStatuses": [{"ready": ready, "state": state}]},
    }


def container(name, on="n0", *, state="running"):
    labels = {
        "overspill.dev/uid": f"uid-{name}",
        "overspill.dev/node": on,
        "overspill.dev/container": "web",
    }
    return {"Labels": labels, "State": state}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("a"), node("b")], ""),
        ([node("a")], "no node b"),
        ([node("a"), node("b"), node("c")], "unexpected node c"),
        ([node("a"), node("b", "Unknown")], "not Ready: b"),
        ([node("a"), {"metadata": {"name": "b"}}], "not Ready: b"),
    ],
)
def test_nodes_ready(nodes, reason):
    assert expect.nodes_ready(nodes, ["a", "b"]) == reason


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (pod("p"), ""),
        (pod("p", phase="Pending"), "p is Pending"),
        (pod("p", ready=False), "p is not ready"),
        (pod("p", phase="Pending", waiting="ErrImagePull", ready=False), "p waits: ErrImagePull"),
        (pod("p", leaving=True), "p is Terminating"),
        ({"metadata": {"name": "p"}, "spec": {}}, "p is Pending"),
    ],
)
def test_pods_run(one, reason):
    assert expect.pods_run([one], 1) == reason


def test_pods_run_counts():
    assert expect.pods_run([pod("a"), pod("b")], 3) == "2 pods instead of 3"


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["1", "2"], ""),
        (["1", "1"], "several pods have 1"),
        (["1", ""], "1 pods without an address"),
    ],
)
def test_addresses_distinct(addresses, reason):
    assert expect.addresses_distinct([pod("p", address=each) for each in addresses]) == reason


@pytest.mark.parametrize(
    ("where", "even"),
    [("aabbc", True), ("abc", True), ("aaab", False), ("aabb", False), ("abcd", False), ("", True)],
)
def test_spread_evenly(where, even):
    assert (expect.spread_evenly([pod("p", on) for on in where], "abc") == "") is even


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        ([container("p"), container("q")], ""),
        ([container("p")], "1 containers missing"),
        ([container("p"), container("q"), container("q")], "1 too many: web of uid-q on n0"),
        ([container("p"), container("q", "n1")], "1 containers missing, 1 too many: web of uid-q on n1"),
        ([container("p"), container("q"), {"Labels": None, "State": "running"}], "1 too many: ? of ? on ?"),
        ([container("p"), container("q", state="exited")], "1 not running"),
    ],
)
def test_same_in_cloud(containers, reason):
    assert expect.same_in_cloud([pod("p"), pod("q")], containers) == reason


def test_pods_on():
    assert expect.pods_on([pod("p"), pod("q", "n1")], "n0") == "not on n0: q"


def test_column_of_a_table():
    table = "NAME   STATUS   ROLES   AGE\na      Ready    agent   5s\nb      Ready    <none>  5s\n"
    assert _column(table, "ROLES") == {"a": "agent", "b": "<none>"}
