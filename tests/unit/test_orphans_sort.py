"""Whose a container group is, when it may go, and when a look is not believed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.backends.base import ContainerGroup
from overspill.model.work import Identity
from overspill.orphans.sightings import Pace, Sightings
from overspill.orphans.sort import FEW, UNWANTED, Look, Owner, State, costs, counts, doubts, sort


def group(id_="eci-1", *, uid="u1", node="vn-0", attempt=0, created=100.0, **more) -> ContainerGroup:
    identity = Identity("cluster", node, "default", f"pod-{uid}", uid, attempt)
    return ContainerGroup(id=id_, identity=identity, created_at=created, status="Running", **more)


def look(*groups, owners=(), agents=("vn-0",), foreign=0, **more) -> Look:
    known = {each.uid: each for each in owners}
    return Look(groups=groups, owners=known, agents=frozenset(agents), foreign=foreign, **more)


def owner(uid="u1", instance="") -> Owner:
    return Owner(uid, "default", f"pod-{uid}", instance)


def states(seen: Look) -> dict[str, State]:
    return {each.group.id: each.state for each in sort(seen)}


TWO = (group("old", created=100), group("new", created=200))
CASES = {
    "pod and agent are there": (look(group(), owners=[owner()]), {"eci-1": "Owned"}),
    "the node's agent is not": (look(group(), owners=[owner()], agents=["vn-1"]), {"eci-1": "Adoptable"}),
    "the pod is not": (look(group(), owners=[owner("u2")]), {"eci-1": "Orphan"}),
    "neither is": (look(group(), owners=[owner("u2")], agents=[]), {"eci-1": "Orphan"}),
    "a pod of the same name but another uid": (
        look(group(), owners=[Owner("u2", "default", "pod-u1")]),
        {"eci-1": "Orphan"},
    ),
    "its end was asked for": (look(group(terminating=True), owners=[owner("u2")]), {"eci-1": "Terminating"}),
    "terminating with its pod": (look(group(terminating=True), owners=[owner()]), {"eci-1": "Owned"}),
    "two, the pod names one": (
        look(*TWO, owners=[owner(instance="old")]),
        {"old": "Owned", "new": "Duplicate"},
    ),
    "two, the pod names the younger": (
        look(*TWO, owners=[owner(instance="new")]),
        {"old": "Duplicate", "new": "Owned"},
    ),
    "two, the pod names none": (look(*TWO, owners=[owner()]), {"old": "Owned", "new": "Owned"}),
    "two, the pod names a third": (
        look(*TWO, owners=[owner(instance="x")]),
        {"old": "Owned", "new": "Owned"},
    ),
    "two without an agent, the pod names the older": (
        look(*TWO, owners=[owner(instance="old")], agents=[]),
        {"old": "Adoptable", "new": "Duplicate"},
    ),
    "two without an agent, a new agent would keep the older": (
        look(*TWO, owners=[owner(instance="new")], agents=[]),
        {"old": "Adoptable", "new": "Adoptable"},
    ),
    "two, the one that is named has ended": (
        look(group("old", ended=True), group("new", created=200), owners=[owner(instance="old")]),
        {"old": "Owned", "new": "Owned"},
    ),
    "two, the one that is named is going": (
        look(group("old", terminating=True), group("new", created=200), owners=[owner(instance="old")]),
        {"old": "Owned", "new": "Owned"},
    ),
    "the attempt before": (
        look(group("old"), group("new", attempt=1, created=200), owners=[owner(instance="new")]),
        {"old": "Duplicate", "new": "Owned"},
    ),
    "the attempt that is to come": (
        look(group("old"), group("new", attempt=1, created=200), owners=[owner(instance="old")]),
        {"old": "Owned", "new": "Owned"},
    ),
    "two orphans of one pod": (look(*TWO, owners=[owner("u2")]), {"old": "Orphan", "new": "Orphan"}),
}


@pytest.mark.parametrize(("seen", "expected"), CASES.values(), ids=CASES.keys())
def test_state_of_each_group(seen, expected):
    assert states(seen) == expected


uids = st.sampled_from(["u1", "u2", "u3"])
ids = st.sampled_from(["a", "b", "c", "d"])
groups = st.lists(
    st.builds(
        group,
        ids,
        uid=uids,
        node=st.sampled_from(["vn-0", "vn-1"]),
        attempt=st.integers(0, 2),
        created=st.sampled_from([100.0, 200.0]),
        terminating=st.booleans(),
        ended=st.booleans(),
    ),
    unique_by=lambda each: each.id,
)
owners = st.lists(
    st.builds(owner, uids, instance=st.one_of(st.just(""), ids)), unique_by=lambda each: each.uid
)
looks = st.builds(
    lambda found, pods, agents: look(*found, owners=pods, agents=agents),
    groups,
    owners,
    st.lists(st.sampled_from(["vn-0", "vn-1"])),
)


@given(looks)
def test_a_pod_that_exists_keeps_a_group(seen):
    """Whatever is unwanted, at least one of its groups is not, and never the one that it names."""
    found = sort(seen)
    for each in found:
        if (pod := seen.owners.get(each.group.identity.uid)) is None:
            assert each.state in {State.ORPHAN, State.TERMINATING}
        else:
            assert each.state is not State.ORPHAN
            assert each.state is not State.DUPLICATE or each.group.id != pod.instance
    for uid in seen.owners:
        of_pod = [each for each in found if each.group.identity.uid == uid]
        assert not of_pod or any(each.state not in UNWANTED for each in of_pod)


@given(looks)
def test_every_group_has_one_state_and_is_counted_once(seen):
    found = sort(seen)
    assert [each.group for each in found] == list(seen.groups)
    assert sum(counts(found).values()) == len(seen.groups)


def test_costs_are_of_unwanted_groups_of_known_price():
    seen = look(
        group("a", price=Decimal("0.1"), currency="CNY"),
        group("b", uid="u2", price=Decimal("0.2"), currency="CNY"),
        group("c", uid="u3", price=Decimal("0.4"), currency="USD"),
        group("d", uid="u4", price=None),
        owners=[owner()],
    )
    assert costs(sort(seen)) == {"CNY": Decimal("0.2"), "USD": Decimal("0.4")}


# --- which looks are believed ---


def orphans(number, *, owned=0):
    made = [group(f"o{n}", uid=f"o{n}") for n in range(number)] + [
        group(f"p{n}", uid=f"p{n}") for n in range(owned)
    ]
    return look(*made, owners=[owner(f"p{n}") for n in range(owned)] or [owner("of-another-node")])


DOUBTS = {
    "nothing at all": (look(), ""),
    "no pods, no groups": (look(owners=[]), ""),
    "no pods": (look(group()), "no pod at all"),
    "few": (orphans(FEW), ""),
    "more, all": (orphans(FEW + 1), "11 of 11 container groups"),
    "most": (orphans(60, owned=40), "60 of 100"),
    "half": (orphans(50, owned=50), ""),
}


@pytest.mark.parametrize(("seen", "expected"), DOUBTS.values(), ids=DOUBTS.keys())
def test_a_look_that_would_delete_nearly_everything_is_doubted(seen, expected):
    doubt = doubts(seen, sort(seen))
    assert expected in doubt
    assert bool(doubt) == bool(expected)


# --- since when, and how many ---

ORPHAN = sort(look(group(), owners=[owner("u2")]))
NONE = sort(look(group(), owners=[owner()]))


def due_after(*looks_, quiet=10.0):
    """What is due at the last of (time, found); None: another process goes on, "anew": from nothing."""
    sightings = Sightings(quiet_seconds=quiet)
    for now, found in looks_:
        if found == "anew":
            sightings.begin({})
        elif found is None:
            sightings.begin(sightings.seen)
        else:
            sightings.note(found, now)
    return [each.group.id for each in sightings.due(found)]


def test_due_after_two_looks_and_the_quiet_time():
    assert due_after((0.0, ORPHAN)) == []
    assert due_after((0.0, ORPHAN), (5.0, ORPHAN)) == []
    assert due_after((0.0, ORPHAN), (10.0, ORPHAN)) == ["eci-1"]
    assert due_after((0.0, ORPHAN), quiet=0.0) == []
    assert due_after((0.0, ORPHAN), (0.0, ORPHAN), quiet=0.0) == ["eci-1"]


def test_counting_begins_anew_when_it_was_wanted_or_another_or_all_was_forgotten():
    assert due_after((0.0, ORPHAN), (5.0, NONE), (20.0, ORPHAN)) == []
    assert due_after((0.0, ORPHAN), (5.0, []), (20.0, ORPHAN)) == []
    assert due_after((0.0, ORPHAN), (5.0, "anew"), (20.0, ORPHAN)) == []
    duplicate = sort(look(group("kept", created=1), group(), owners=[owner(instance="kept")]))
    assert due_after((0.0, ORPHAN), (20.0, duplicate)) == []
    of_another = sort(look(group(uid="u9"), owners=[owner()]))
    assert due_after((0.0, ORPHAN), (20.0, of_another)) == []


def test_a_successor_goes_on_and_counts_nothing_of_the_time_between():
    one = ((0.0, ORPHAN), (6.0, ORPHAN), (6.0, None))
    assert due_after(*one, (1000.0, ORPHAN)) == []
    assert due_after(*one, (1000.0, ORPHAN), (1003.9, ORPHAN)) == []
    assert due_after(*one, (1000.0, ORPHAN), (1004.0, ORPHAN)) == ["eci-1"]
    assert due_after((0.0, ORPHAN), (0.0, None), (1000.0, ORPHAN), quiet=0.0) == ["eci-1"]
    assert due_after(*one, (1000.0, NONE), (1004.0, ORPHAN)) == []


def test_what_is_new_is_told_once():
    sightings = Sightings(quiet_seconds=0)
    assert [each.group.id for each in sightings.note(ORPHAN, 0.0)] == ["eci-1"]
    assert sightings.note(ORPHAN, 1.0) == []


def test_the_dearest_goes_first():
    seen = look(
        group("cheap", uid="a", price=Decimal(1)),
        group("dear", uid="b", price=Decimal(3)),
        group("unknown", uid="c", price=None, created=1.0),
        owners=[owner()],
    )
    assert due_after((0.0, sort(seen)), (10.0, sort(seen))) == ["dear", "cheap", "unknown"]


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 5))
def test_never_more_than_so_many_in_any_minute(pauses, most):
    pace, now, taken = Pace(most), 0, []
    for pause in pauses:
        now += pause
        if pace.take(now):
            taken.append(now)
    for moment in taken:
        assert sum(moment <= other < moment + 60 for other in taken) <= most
