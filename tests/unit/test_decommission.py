"""What is left to do for a node without an agent: tables of the pure decisions."""

import msgspec
import pytest

from overspill.backends.base import ContainerGroup
from overspill.decommission.decide import LATE, SILENCE, Heart, rest
from overspill.model.pods import Pod
from overspill.model.work import Identity


def group(uid="p", number="g", **state):
    identity = Identity("c", "vn-3", "default", "p", uid)
    return ContainerGroup(id=number, identity=identity, created_at=0.0, status="Running", **state)


def pod(phase="Running", **meta):
    meta = {"name": "p", "namespace": "default", "uid": "p", **meta}
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "status": {"phase": phase}}), type=Pod)


ENDING = {"deletionTimestamp": "2026-11-29T00:00:00Z", "deletionGracePeriodSeconds": 30}
ENDED_HERE = {**ENDING, "deletionGracePeriodSeconds": 0, "finalizers": ["example.com/x"]}
RESTS = {
    "runs, not evicted yet": ([group()], [pod()], [], []),
    "on its way out, with a group": ([group()], [pod(**ENDING)], ["g"], []),
    "on its way out, its group too": ([group(terminating=True)], [pod(**ENDING)], [], []),
    "on its way out, group gone": ([], [pod(**ENDING)], [], ["p"]),
    "waits for owners of finalizers": ([], [pod(**ENDED_HERE)], [], []),
    "not started, not evicted yet": ([], [pod("Pending")], [], []),
    "ended, with a group": ([group()], [pod("Succeeded")], ["g"], []),
    "no such pod": ([group("other")], [], ["g"], []),
    "two groups of one pod": ([group(), group(number="h")], [pod(**ENDING)], ["g", "h"], []),
    "nothing": ([], [], [], []),
}


@pytest.mark.parametrize(("groups", "pods", "remove", "end"), RESTS.values(), ids=RESTS.keys())
def test_rest(groups, pods, remove, end):
    left = rest(groups, pods)
    assert [each.id for each in left.groups] == remove
    assert [each.metadata.uid for each in left.pods] == end


def test_an_agent_lives_while_its_lease_changes_whatever_it_says():
    heart = Heart()
    assert heart.beats("host/uid", "1999", now=100.0)
    assert heart.beats("host/uid", "1999", now=100.0 + SILENCE - 1)
    assert not heart.beats("host/uid", "1999", now=100.0 + SILENCE)
    assert heart.beats("host/uid", "1998", now=200.0)  # its clock was set back
    assert heart.beats("", "1998", now=201.0)  # it let go, and what it made last may not be listed yet
    assert not heart.beats("", "1998", now=201.0 + LATE)
    assert heart.beats("host/other", "1998", now=300.0)
    assert Heart().beats("", "", now=0.0)
