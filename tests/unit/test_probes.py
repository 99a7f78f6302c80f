"""Probes as the kubelet judges them; each row is a rule of its prober."""

import pytest
from msgspec import structs

from overspill.backends.podman.probes import (
    Standing,
    due_probes,
    first_at,
    is_ready,
    is_started,
    judge,
    marked,
    next_at,
)
from overspill.backends.podman.seen import Deletion, Hook, Marks, Run, Seen
from overspill.model.work import Container, ExecAction, Probe, SleepAction

DO = ExecAction(("true",))
PROBE = Probe(DO, period_seconds=10, success_threshold=1, failure_threshold=3)
RUN = Run("r0", "a", 0, "running", started_at=100.0)
ENDED = structs.replace(RUN, state="exited")


def seen(run=RUN, marks=None, **more) -> Seen:
    return Seen(taken_at=90.0, runs=(run,), marks={run.id: marks} if marks else {}, **more)


def judged(probe: Probe, outcomes: str, standing=None) -> list[bool | None]:
    """The verdict after each outcome: + is healthy, - is not."""
    verdicts, standing = [], standing or Standing()
    for outcome in outcomes:
        standing = judge(probe, standing, healthy=outcome == "+")
        verdicts.append(standing.verdict)
    return verdicts


@pytest.mark.parametrize(
    ("outcomes", "verdicts"),
    [
        ("+", [True]),
        ("---", [None, None, False]),
        ("+--+", [True, True, True, True]),  # a success starts the count of failures anew
        ("+---", [True, True, True, False]),
        ("---+", [None, None, False, True]),
    ],
)
def test_an_outcome_counts_once_its_threshold_is_reached(outcomes, verdicts):
    assert judged(PROBE, outcomes) == verdicts


def test_a_success_threshold_asks_for_as_many_in_a_row():
    probe = structs.replace(PROBE, success_threshold=2, failure_threshold=1)
    assert judged(probe, "+-++") == [None, False, False, True]


def test_what_an_earlier_agent_knew_holds_until_a_threshold_says_otherwise():
    assert judged(PROBE, "---", Standing(verdict=True)) == [True, True, False]


VERDICTS = {
    "ready": ("Readiness", True, Marks(), Marks(ready=True, changed_at=5.0)),
    "ready still": ("Readiness", True, Marks(ready=True, changed_at=1.0), Marks(ready=True, changed_at=1.0)),
    "no longer ready": ("Readiness", False, Marks(ready=True, changed_at=1.0), Marks(changed_at=5.0)),
    "not ready yet": ("Readiness", False, Marks(), Marks()),
    "started": ("Startup", True, Marks(), Marks(started=True, changed_at=5.0)),
    "never started": ("Startup", False, Marks(), Marks(doomed="Startup", doomed_at=5.0)),
    "alive": ("Liveness", True, Marks(started=True), Marks(started=True)),
    "dead": ("Liveness", False, Marks(ready=True), Marks(ready=True, doomed="Liveness", doomed_at=5.0)),
    "doomed already": (
        "Liveness",
        False,
        Marks(doomed="PostStart", doomed_at=1.0),
        Marks(doomed="PostStart", doomed_at=1.0),
    ),
}


@pytest.mark.parametrize(("kind", "verdict", "before", "after"), VERDICTS.values(), ids=VERDICTS.keys())
def test_what_a_verdict_does_to_a_run(kind, verdict, before, after):
    assert marked(kind, verdict, before, 5.0) == after


@pytest.mark.parametrize(
    ("kind", "now", "at"),
    [
        ("Readiness", 100.0, 130.0),  # the initial delay
        ("Startup", 131.0, 131.0),  # … which is over
        ("Liveness", 100.0, 135.0),  # … and half a period
        ("Liveness", 131.0, 136.0),
    ],
)
def test_the_first_time(kind, now, at):
    probe = structs.replace(PROBE, initial_delay_seconds=30)
    assert first_at(kind, probe, began=100.0, now=now, jitter=0.5) == at


def test_every_period_or_at_once_after_a_long_time():
    assert next_at(PROBE, begun=100.0, now=101.0) == 110.0
    assert next_at(PROBE, begun=100.0, now=114.0) == 114.0


ALL = Container("a", "image", startup=PROBE, readiness=PROBE, liveness=PROBE)
DUE = {
    "startup comes first": (ALL, RUN, None, {}, ["Startup"]),
    "the others after it": (ALL, RUN, Marks(started=True), {}, ["Readiness", "Liveness"]),
    "no startup probe": (structs.replace(ALL, startup=None), RUN, None, {}, ["Readiness", "Liveness"]),
    "does not run": (ALL, ENDED, Marks(started=True), {}, []),
    "is doomed": (ALL, RUN, Marks(started=True, doomed="Liveness"), {}, []),
    "on its way out": (ALL, RUN, Marks(started=True), {"deletion": Deletion(1.0, 1.0)}, ["Readiness"]),
    "on its way out, not started": (ALL, RUN, None, {"deletion": Deletion(1.0, 1.0)}, []),
    "before its hook": (structs.replace(ALL, post_start=DO), RUN, None, {}, []),
    "during its hook": (structs.replace(ALL, post_start=DO), RUN, Marks(post_start=Hook(1.0)), {}, []),
    "after its hook": (
        structs.replace(ALL, post_start=DO),
        RUN,
        Marks(post_start=Hook(1.0, 2.0)),
        {},
        ["Startup"],
    ),
}


@pytest.mark.parametrize(("container", "run", "marks", "more", "kinds"), DUE.values(), ids=DUE.keys())
def test_which_probes_a_run_is_due(container, run, marks, more, kinds):
    assert [kind for kind, _ in due_probes(container, run, seen(run, marks, **more))] == kinds


PLAIN = Container("a", "image")
STATES = {
    "runs": (PLAIN, RUN, None, True, True),
    "has ended": (PLAIN, ENDED, None, False, False),
    "not started": (ALL, RUN, None, False, False),
    "started": (ALL, RUN, Marks(started=True), True, False),
    "ready": (ALL, RUN, Marks(started=True, ready=True), True, True),
    "ready once, ended": (ALL, ENDED, Marks(started=True, ready=True), False, False),
    "in its hook": (
        structs.replace(PLAIN, post_start=SleepAction(1)),
        RUN,
        Marks(post_start=Hook(1.0)),
        False,
        False,
    ),
    "after its hook": (
        structs.replace(PLAIN, post_start=SleepAction(1)),
        RUN,
        Marks(post_start=Hook(1.0, 2.0)),
        True,
        True,
    ),
    "its hook failed": (
        structs.replace(PLAIN, post_start=DO),
        RUN,
        Marks(post_start=Hook(1.0, 2.0, failed=True), doomed="PostStart"),
        False,
        False,
    ),
}


@pytest.mark.parametrize(
    ("container", "run", "marks", "started", "ready"), STATES.values(), ids=STATES.keys()
)
def test_started_and_ready(container, run, marks, started, ready):
    state = seen(run, marks)
    assert (is_started(container, run, state), is_ready(container, run, state)) == (started, ready)
