"""Groups as listings tell of them."""

import json

import msgspec
import pytest

from overspill.backends.eci.answers import StatusEntry
from overspill.backends.eci.groups import Groups
from overspill.backends.eci.status import Group
from overspill.backends.eci.wire import decode
from overspill.backends.feed import Feed
from overspill.model.podstatus import to_pod_status
from overspill.model.work import Identity

GROUP = Group(
    id="eci-1", identity=Identity("cluster", "vn-0", "shop", "web", "uid"), containers=(), created_at=1.0
)


def no_groups(complete=lambda _, seen: seen, **how):
    return Groups(
        Feed(), remove=lambda _: None, quote=lambda _: {}, complete=complete, holds=lambda _: False, **how
    )


def test_what_is_listed_again_as_it_was_is_not_looked_into():
    """Two looks at what changed overlap by many seconds."""
    looks = []

    def complete(_, seen):
        looks.append(seen)
        return seen

    groups = no_groups(complete)
    known = groups.add(GROUP)
    for status in ("Running", "Running", "Running", "Succeeded"):
        groups.update(StatusEntry("eci-1", status))
    assert known.listed
    assert len(looks) == 2


def listed(ready, minute):
    told = {
        "Name": "main",
        "Ready": ready,
        "Started": True,
        "State": {"Running": {"StartedAt": "2026-12-01T00:00:00Z"}},
    }
    condition = {
        "type": "ContainersReady",
        "status": str(ready),
        "lastTransitionTime": f"2026-12-01T00:0{minute}:00Z",
    }
    pod = {"StartTime": "2026-12-01T00:00:00Z", "Conditions": [condition], "ContainerStatuses": [told]}
    return decode(
        json.dumps({"ContainerGroupId": "eci-1", "Status": "Running", "PodStatus": pod}).encode(), StatusEntry
    )


def test_a_pod_is_ready_since_eci_says_so_and_not_since_its_start():
    """By that Deployments count minReadySeconds."""
    groups = no_groups()
    known = groups.add(msgspec.structs.replace(GROUP, containers=(("main", "i"),)))
    times = []
    for ready, minute in ((False, 0), (True, 2), (True, 3), (False, 5)):
        groups.update(listed(ready, minute))
        (told,) = (c for c in to_pod_status(known.seen, host_ip="").conditions if c.type == "Ready")
        times.append((told.status, told.last_transition_time[14:16]))
    # What changes without the readiness moves no time.
    assert times == [("False", "00"), ("True", "02"), ("True", "02"), ("False", "05")]


def test_what_has_left_a_listing_needs_no_removal():
    left, now = [], 10.0
    groups = no_groups(clock=lambda: now)
    groups.on_left = left.append
    groups.add(GROUP)
    groups.add(msgspec.structs.replace(GROUP, id="eci-2", created_at=2.0))
    groups.forget_unwanted({"eci-2"}, before=11.0)
    groups.forget_unwanted(set(), before=9.0)  # it may not be listed yet
    assert left == []
    groups.forget_unwanted(set(), before=11.0)
    assert left == ["eci-2"]
    groups.gone(groups.by_id("eci-1"))
    assert left == ["eci-2", "eci-1"]


def test_a_deletion_that_is_not_carried_out_is_asked_for_again():
    """ECI did not find the group, since its index was late, or has forgotten about it."""
    removed, now = [], 0.0
    groups = Groups(
        Feed(),
        remove=removed.append,
        quote=lambda _: {},
        complete=lambda _, seen: seen,
        holds=lambda _: False,
        clock=lambda: now,
    )
    groups.add(GROUP)
    groups.removal_answered("eci-1")
    for now in (30.0, 61.0, 120.0, 182.0, 300.0):  # noqa: B007 - it is the clock
        groups.update(StatusEntry("eci-1", "Running"))
    assert removed == ["eci-1", "eci-1"]
    now = 1000.0
    groups.update(StatusEntry("eci-1", "Terminating"))
    assert len(removed) == 2


def test_a_second_group_that_stays_is_removed_again():
    removed, now = [], 10.0
    groups = no_groups(clock=lambda: now)
    groups._remove = removed.append
    groups.add(GROUP)
    groups.add(msgspec.structs.replace(GROUP, id="eci-2", created_at=2.0))
    assert removed == ["eci-2"]
    groups.forget_unwanted({"eci-1", "eci-2"}, before=11.0)
    assert removed == ["eci-2", "eci-2"]


def of_attempt(number, **fields):
    return msgspec.structs.replace(
        GROUP, identity=msgspec.structs.replace(GROUP.identity, attempt=number), **fields
    )


@pytest.mark.parametrize(
    ("known", "other", "status", "kept"),
    [
        pytest.param(
            of_attempt(1, created_at=9.0), of_attempt(0), "ScheduleFailed", "eci-1", id="an old attempt"
        ),
        pytest.param(of_attempt(1, created_at=9.0), of_attempt(0), "Running", "eci-1", id="that runs, too"),
        pytest.param(of_attempt(0), of_attempt(1, created_at=9.0), "", "eci-2", id="a later attempt"),
        pytest.param(of_attempt(0, created_at=9.0), of_attempt(0), "Failed", "eci-1", id="an end"),
        pytest.param(of_attempt(0, created_at=9.0), of_attempt(0), "Running", "eci-2", id="the first"),
        pytest.param(
            of_attempt(0, deleting=True), of_attempt(0, created_at=9.0), "", "eci-2", id="one on its way out"
        ),
    ],
)
def test_which_of_two_groups_of_a_pod_is_kept(known, other, status, kept):
    groups = no_groups()
    groups.add(known)
    groups.update(StatusEntry("eci-1", "Running"))
    groups.add(msgspec.structs.replace(other, id="eci-2"), entry=StatusEntry("eci-2", status))
    assert [each.group.id for each in groups] == [kept]
    assert list(groups.unwanted) == [{"eci-1": "eci-2", "eci-2": "eci-1"}[kept]]
