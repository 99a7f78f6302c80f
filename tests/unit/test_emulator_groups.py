"""The state machine of container groups: whatever comes, its invariants hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from overspill.emulator import groups as life
from overspill.emulator.groups import BILLED, ENDED, Group, Retention, forgotten, next_step, status_of
from overspill.emulator.happenings import MOST_EVENTS, Event, merge
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.work import Identity

PLAIN = Group(
    id="eci-1",
    seq=1,
    name="demo",
    region="r",
    zone="z",
    vpc="v",
    vswitch="s",
    security_group="g",
    address="10.0.0.1",
    cpu=0.25,
    memory=0.5,
    price=1,
    created_at=0,
    changed_at=0,
)
RUNS = Running(1.0)
DONE = Terminated(0, "Completed", 1.0, 2.0)
BROKEN = Terminated(1, "Error", 1.0, 2.0)
WAITS = Waiting("ContainerCreating")


def container(state, *, will_restart=False, restarts=0):
    return ContainerObservation("c", state, "image", will_restart=will_restart, restarts=restarts)


def observation(*containers, attempt=0, init=(), failed=False):
    return Observation(
        Identity("e", "r", "eci", "demo", "eci-1", attempt), 0.0, containers, init, failed=failed
    )


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (observation(container(WAITS)), "Pending"),
        (observation(container(WAITS), init=(container(RUNS),)), "Pending"),
        (observation(container(WAITS), init=(container(BROKEN),)), "Failed"),
        (observation(container(WAITS), init=(container(BROKEN, will_restart=True),)), "Pending"),
        (observation(container(RUNS), container(WAITS)), "Running"),
        (observation(container(DONE), container(RUNS)), "Running"),
        (observation(container(DONE), container(DONE)), "Succeeded"),
        (observation(container(DONE), container(BROKEN)), "Failed"),
        (observation(container(BROKEN, will_restart=True)), "Running"),
        (observation(container(WAITS, restarts=2)), "Running"),
        (observation(container(RUNS), failed=True), "Failed"),
        (observation(), "Pending"),
    ],
)
def test_status_from_containers(seen, status):
    assert status_of(seen) == status


def test_what_the_engine_is_to_do():
    placed = life.placed(PLAIN, at=1, pending_seconds=600)
    assert next_step(PLAIN) is None
    assert next_step(placed).verb == "create"
    running = structs.replace(placed, submitted=0, status="Running")
    assert next_step(running) is None
    again = life.attempted_again(running, status="Restarting", at=2)
    assert (next_step(again).verb, next_step(again).attempt) == ("delete", 0)
    between = life.lost(again, at=3)
    assert (next_step(between).verb, next_step(between).attempt) == ("create", 1)
    assert next_step(life.removed(running, at=4)).verb == "delete"
    assert next_step(life.removed(PLAIN, at=4)) is None


def test_an_observation_of_an_earlier_attempt_changes_nothing():
    group = structs.replace(PLAIN, status="Running", attempt=1, submitted=1)
    assert life.seen(group, observation(container(DONE)), at=5) is group


def test_a_group_that_the_engine_cannot_tell_of_stays_as_it_is():
    group = structs.replace(PLAIN, status="Running", submitted=0)
    unknown = structs.replace(observation(container(WAITS)), unknown=True)
    assert life.seen(group, unknown, at=5) is group


def test_a_lost_engine_fails_the_group():
    group = life.lost(structs.replace(PLAIN, status="Running", submitted=0), at=5)
    assert (group.status, group.submitted, group.reason) == ("Failed", None, "SystemFailure.Redeploy")


states = st.sampled_from([WAITS, RUNS, DONE, BROKEN, Waiting("CrashLoopBackOff")])
containers = st.builds(container, states, will_restart=st.booleans(), restarts=st.integers(0, 2))
observations = st.builds(
    lambda every, attempt, failed: observation(*every, attempt=attempt, failed=failed),
    st.lists(containers, max_size=3),
    st.integers(0, 2),
    st.booleans(),
)
inputs = st.one_of(
    st.just(("placed",)),
    st.just(("not_placed",)),
    st.just(("submitted",)),
    st.just(("lost",)),
    st.just(("removed",)),
    st.just(("restarted",)),
    st.just(("interrupted",)),
    st.just(("expired",)),
    st.just(("pending_too_long",)),
    observations.map(lambda seen: ("seen", seen)),
)


def act(group: Group, what, at: float) -> Group:
    match what:
        case ("placed",):
            return life.placed(group, at=at, pending_seconds=600)
        case ("not_placed",):
            return life.not_placed(group, reason="NoStock", message="", at=at)
        case ("submitted",) if (step := next_step(group)) and step.verb == "create":
            return structs.replace(group, submitted=step.attempt)
        case ("lost",):
            return life.lost(group, at=at)
        case ("removed",):
            return life.removed(group, at=at)
        case ("restarted",) if group.status in {"Pending", "Running"}:
            return life.attempted_again(group, status="Restarting", at=at)
        case ("interrupted",):
            return life.interrupted(group, at=at, notice=1)
        case ("expired",):
            return life.expired(group, at=at)
        case ("pending_too_long",):
            return life.pending_too_long(group, at=at)
        case ("seen", seen):
            return life.seen(group, seen, at=at)
    return group


@settings(max_examples=300)
@given(st.lists(inputs, max_size=25))
def test_invariants(script):
    group = PLAIN
    for at, what in enumerate(script, 1):
        before, group = group, act(group, what, float(at))
        if before.ended:
            assert group.status == before.status
            assert group.ended_at == before.ended_at
        assert (group.status in ENDED) == (group.ended_at is not None)
        if before.status in BILLED and group.status not in BILLED:
            assert group.ended
        if before.status == "Scheduling" and group.status not in {"Scheduling", "ScheduleFailed"}:
            assert what in {("placed",), ("expired",)} or group.status == "Failed"
        assert group.attempt >= before.attempt
        assert group.changed_at >= before.changed_at
        if group.status != before.status:
            assert group.changed_at == at
        step = next_step(group)
        if step and step.verb == "create":
            assert group.submitted is None
            assert not group.ended
            assert not group.removing
        assert len(group.events) <= MOST_EVENTS


def test_events_that_repeat_are_counted():
    first = Event("Warning", "BackOff", "again", 1.0)
    [once] = merge((), [first, structs.replace(first, last=2.0), structs.replace(first, last=3.0)])
    assert (once.count, once.first, once.last) == (3, 1.0, 3.0)
    many = merge((), [Event("Normal", "Started", str(n), float(n)) for n in range(80)])
    assert [event.message for event in many] == [str(n) for n in range(30, 80)]


def test_retention():
    groups = [structs.replace(PLAIN, id=f"eci-{n}", status="Succeeded", ended_at=float(n)) for n in range(10)]
    groups.append(structs.replace(PLAIN, id="live", status="Running"))
    groups.append(structs.replace(PLAIN, id="unplaced", status="ScheduleFailed", ended_at=0.0))
    rule = Retention(seconds=100, count=3, schedule_failed_seconds=1000)
    assert forgotten(groups, rule, now=99) == []
    assert [g.id for g in forgotten(groups, rule, now=105)] == ["eci-4", "eci-3", "eci-2", "eci-1", "eci-0"]
    assert forgotten(groups, rule, now=1001)[-1].id == "unplaced"
