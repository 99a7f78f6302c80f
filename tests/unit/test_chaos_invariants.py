"""The pure half of the chaos runs: schedules, and checkers over what was seen."""

import subprocess
import sys
import time

import pytest

from chaos import invariants
from chaos.history import Billed, History, Memory, NodeChange, Pod, count_base, held, node_change, take
from chaos.schedule import KINDS, last_end, rounds, schedule
from chaos.world import CLOCK_FOLDER, set_clock

NOW = 1000.0


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_is_a_schedule(seed):
    assert schedule(seed, 300) == schedule(seed, 300)
    assert schedule(seed, 300) != schedule(seed + 1, 300)


@pytest.mark.parametrize("seed", range(20))
def test_no_fault_outlasts_the_schedule(seed):
    faults = schedule(seed, 300, nodes=4)
    assert last_end(faults) <= 300
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert {fault.node for fault in faults} <= set(range(4))


def test_every_kind_comes_before_any_comes_twice():
    faults = schedule(3, 3600)
    first = [fault.kind for fault in faults[: len(KINDS)]]
    assert sorted(first) == sorted(KINDS)


@pytest.mark.parametrize(("minutes", "count"), [(1.5, 1), (5, 1), (30, 8)])
def test_rounds_differ_and_fill_the_time(minutes, count):
    found = rounds(1, minutes * 60)
    assert len(found) == count
    assert len({tuple(faults) for faults in found}) == count
    assert all(last_end(faults) <= minutes * 60 / count for faults in found)


def test_kinds_can_be_left_out():
    assert {fault.kind for fault in schedule(1, 300, kinds={"agent-kill": (0, 0)})} == {"agent-kill"}


def pod(uid="a", **fields):
    return Pod(uid=uid, namespace="chaos", name=f"web-{uid}", **{"app": "web", **fields})


def history(*pods, bill=(), memory=()):
    return History(pods={each.uid: each for each in pods}, bill=list(bill), memory=list(memory))


def billed(group, uid="a", began=0.0, ended=None):
    return Billed(group, uid, f"chaos/web-{uid}", began, ended)


@pytest.mark.parametrize(
    ("bill", "found"),
    [
        ([billed("g1")], 0),
        ([billed("g1", ended=50), billed("g2", began=50)], 0),
        ([billed("g1", ended=50), billed("g2", began=45)], 0),  # within one reconcile
        ([billed("g1", ended=50), billed("g2", began=30)], 1),
        ([billed("g2", began=900), billed("g1")], 1),
        ([billed("g1"), billed("g2", uid="b")], 0),
    ],
)
def test_duplicates(bill, found):
    assert len(invariants.duplicates(history(pod(), bill=bill), NOW)) == found


@pytest.mark.parametrize(
    ("gone", "line", "found", "longest"),
    [
        (None, billed("g"), 0, 0),
        (900.0, billed("g", ended=890.0), 0, 0),
        (990.0, billed("g"), 1, 10),
        (700.0, billed("g", ended=900.0), 0, 200),
        (990.0, billed("g", uid="unknown", began=995.0), 1, 5),
        (990.0, billed("g", uid="unknown", began=500.0, ended=700.0), 0, 200),
    ],
)
def test_leaks(gone, line, found, longest):
    seen = history(pod(gone=gone), bill=[line])
    assert len(invariants.leaks(seen, NOW)) == found
    assert invariants.longest_leftover(seen, NOW) == longest


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"phase": "Running"}, 0),
        ({"phase": "Failed", "failed": 900.0, "reason": "ContainersLost"}, 1),
        ({"phase": "Failed", "failed": 900.0, "reason": "ContainersLost", "gone": 950.0}, 1),
        ({"phase": "Failed", "failed": 900.0, "disruption": "DeletionByPodGC"}, 0),
        ({"phase": "Failed", "failed": 900.0, "reason": "SpotInterrupted", "app": "spot"}, 0),
        ({"phase": "Failed", "failed": 900.0, "reason": "SpotInterrupted"}, 1),
        ({"phase": "Running", "disruption": "DeletionByTaintManager"}, 1),
    ],
)
def test_failures(fields, found):
    assert len(invariants.failures(history(pod(**fields)))) == found


@pytest.mark.parametrize(
    ("deadline", "gone", "found", "longest"),
    [
        (None, None, 0, 0),
        (NOW + 5, None, 0, -5),
        (990.0, None, 1, 10),
        (700.0, 900.0, 0, 200),
    ],
)
def test_terminating(deadline, gone, found, longest):
    seen = history(pod(deadline=deadline, gone=gone))
    assert len(invariants.terminating(seen, NOW)) == found
    assert invariants.longest_terminating(seen, NOW) == longest


def test_the_base_is_counted_by_revision():
    pods = [pod(str(number), pool="base", revision="r1") for number in range(3)]
    seen = history(
        *pods, pod("other", pool="base", revision="r2"), pod("elastic", pool="elastic", revision="r1")
    )
    count_base(seen, most=3, at=NOW)
    assert invariants.base_bound(seen) == []
    seen.pods["3"] = pod("3", pool="base", revision="r1")
    count_base(seen, most=3, at=NOW)
    seen.pods["3"].deadline = NOW
    count_base(seen, most=3, at=NOW)
    assert invariants.base_bound(seen) == ["revision r1 had 4 pods on the base"]


def samples(*megabytes, every=10.0):
    return [Memory(every * number, 7, "agent-0", each) for number, each in enumerate(megabytes)]


def test_what_an_agent_held_lately_is_an_average():
    seen = history(memory=samples(10, 20, 30, 50))
    assert held(seen, seconds=15.0, now=30.0) == 40
    assert held(seen, seconds=15.0, now=60.0) == 0


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        (samples(*[50] * 40), 0),
        (samples(*[30] * 5, *[60] * 40), 0),  # while it gets warm
        (samples(*[60, 80] * 20), 0),
        (samples(*range(30, 110, 2)), 1),
        (samples(50, 50, 300), 1),
        (samples(50, 80), 0),  # too short a life to tell
        (samples(*[14] * 40, *[46] * 20, every=2.0), 0),  # stopped while it started
    ],
)
def test_memory(memory, found):
    assert len(invariants.memory(history(memory=memory))) == found


DESIRED = {("chaos", "web"): 1}


@pytest.mark.parametrize(
    ("pods", "bill", "found"),
    [
        ([pod(ready=True, node="virtual-node-eci-0")], [billed("g")], 0),
        ([pod(ready=True, node="worker-0")], [], 0),
        ([pod(ready=True, node="virtual-node-eci-0")], [], 1),
        ([pod(ready=True, node="virtual-node-eci-0")], [billed("g"), billed("h")], 1),
        ([pod(ready=True, node="virtual-node-eci-0")], [billed("g"), billed("h", uid="b")], 1),
        ([pod(ready=False, node="worker-0")], [], 1),
        (
            [pod(ready=True, node="worker-0"), pod("b", owner="Job", app="job", node="virtual-node-eci-0")],
            [],
            0,
        ),
        ([pod(ready=True), pod("b", ready=True)], [], 1),
        ([pod(ready=True, gone=5.0)], [], 1),
        ([pod(ready=True, node="worker-0"), pod("b", phase="Succeeded")], [billed("g", "b", ended=5.0)], 0),
    ],
)
def test_what_is_missing(pods, bill, found):
    assert len([*invariants.not_running_once(history(*pods, bill=bill), DESIRED, "virtual")]) == found


def test_a_pod_is_read_from_the_watch():
    seen = History()
    found = {
        "metadata": {
            "uid": "u",
            "namespace": "chaos",
            "name": "web-1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "h", "placement.overspill.dev/pool": "base"},
            "ownerReferences": [{"kind": "ReplicaSet", "controller": True}],
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Failed",
            "reason": "Evicted",
            "conditions": [{"type": "Ready", "status": "False"}],
        },
    }
    take(seen, "ADDED", found, at=NOW)
    take(seen, "DELETED", found, at=NOW + 1)
    (one,) = seen.pods.values()
    assert (one.owner, one.app, one.revision, one.pool, one.node) == ("ReplicaSet", "web", "h", "base", "n")
    assert (one.phase, one.reason, one.ready, one.failed, one.gone) == (
        "Failed",
        "Evicted",
        False,
        NOW,
        NOW + 1,
    )


# --- clocks ---

TELL = "import sys, time, datetime as d\nfor _ in sys.stdin: print(time.time(), d.datetime.now(d.UTC).timestamp(), flush=True)"


def test_a_clock_is_turned_while_its_process_runs(tmp_path):
    file = tmp_path / "node-1"
    set_clock(file, ahead=0.0)
    environment = {"PYTHONPATH": str(CLOCK_FOLDER), "CLOCK": f"{tmp_path}/$HOSTNAME", "HOSTNAME": "node-1"}
    process = subprocess.Popen(
        [sys.executable, "-c", TELL],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for ahead in (0.0, 1200.0, -1200.0, 0.0):
            set_clock(file, ahead=ahead)
            process.stdin.write("\n")
            process.stdin.flush()
            told = [float(each) - time.time() for each in process.stdout.readline().split()]
            assert told == pytest.approx([ahead, ahead], abs=60)


def test_a_process_without_its_clock_does_not_run(tmp_path):
    environment = {"PYTHONPATH": str(CLOCK_FOLDER), "CLOCK": f"{tmp_path}/nonesuch"}
    done = subprocess.run([sys.executable, "-c", ""], env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"nonesuch" in done.stderr


def test_what_a_node_was_told_to_be():
    taints = [
        {"key": "node.kubernetes.io/unreachable", "effect": effect} for effect in ("NoSchedule", "NoExecute")
    ]
    conditions = [{"type": "Ready", "status": "Unknown", "message": "no word of it"}]
    found = {
        "metadata": {"name": "one"},
        "spec": {"taints": taints},
        "status": {"conditions": conditions},
    }
    evicts = ("node.kubernetes.io/unreachable",)
    assert node_change("MODIFIED", found, at=NOW) == NodeChange(
        NOW, "one", "Unknown", "no word of it", evicts
    )
    assert node_change("DELETED", found, at=NOW) == NodeChange(NOW, "one")
