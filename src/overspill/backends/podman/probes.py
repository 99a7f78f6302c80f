"""What the outcomes of a container's probes mean: the kubelet's prober as pure functions.

In: a `Probe`, how it stands, one more outcome, the time. Out: how it stands
then; when to ask again; whether a run counts as started and ready. Invariant:
no I/O, no clock.
Sources: k8s.io/kubernetes pkg/kubelet/prober/{worker,prober_manager}.go;
https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct, structs

from overspill.backends.podman.seen import Marks, Run, Seen
from overspill.model.work import Container, Probe

__all__ = [
    "Kind",
    "Standing",
    "first_at",
    "is_ready",
    "is_started",
    "judge",
    "marked",
    "next_at",
]

Kind = Literal["Startup", "Readiness", "Liveness"]


class Standing(Struct, frozen=True):
    """One probe of one run.

    Attributes:
        verdict: what counts; None until a threshold was reached for the first time.
        latest: the last outcome.
        streak: how often in a row it came.
    """

    verdict: bool | None = None
    latest: bool | None = None
    streak: int = 0


def due_probes(container: Container, run: Run, seen: Seen) -> Iterator[tuple[Kind, Probe]]:
    """What a run is to be probed for now: the startup probe comes before the others, which outlast it.

    A pod that is on its way out is asked only whether it is ready.
    """
    marks = seen.marks_of(run)
    if run.state != "running" or marks.doomed or not _hooked(container, marks):
        return
    if container.startup and not marks.started:
        if not seen.deletion:
            yield "Startup", container.startup
        return
    if container.readiness:
        yield "Readiness", container.readiness
    if container.liveness and not seen.deletion:
        yield "Liveness", container.liveness


def judge(probe: Probe, before: Standing, *, healthy: bool) -> Standing:
    """How a probe stands after one more outcome; below its threshold an outcome changes nothing."""
    streak = before.streak + 1 if before.latest == healthy else 1
    threshold = probe.success_threshold if healthy else probe.failure_threshold
    verdict = healthy if streak >= threshold else before.verdict
    return Standing(verdict, healthy, streak)


def marked(kind: Kind, verdict: bool, marks: Marks, now: float) -> Marks:  # noqa: FBT001 - one of two answers
    """The run's marks after a verdict of one of its probes."""
    if kind == "Readiness":
        return marks if verdict == marks.ready else structs.replace(marks, ready=verdict, changed_at=now)
    if verdict:
        if kind == "Liveness" or marks.started:
            return marks
        return structs.replace(marks, started=True, changed_at=now)
    return marks if marks.doomed else structs.replace(marks, doomed=kind, doomed_at=now)


def first_at(kind: Kind, probe: Probe, *, began: float, now: float, jitter: float) -> float:
    """When a run is probed for the first time; `jitter` is a random number from 0 to 1.

    What lets a container serve is asked at once; what may end it comes at a random point of its period,
    as it does where a kubelet's ticker goes on from one run to the next.
    """
    at = max(began + probe.initial_delay_seconds, now)
    return at + jitter * probe.period_seconds if kind == "Liveness" else at


def next_at(probe: Probe, *, begun: float, now: float) -> float:
    """When to ask again: a period after the last time was begun, or now if that took longer."""
    return max(begun + probe.period_seconds, now)


def is_started(container: Container, run: Run | None, seen: Seen) -> bool:
    """Whether a run counts as started: it runs, its hook has returned, its startup probe has succeeded."""
    if run is None or run.state != "running":
        return False
    if container.post_start is None and container.startup is None:
        return True
    marks = seen.marks_of(run)
    if marks.doomed == "PostStart" or not _hooked(container, marks):
        return False
    return container.startup is None or marks.started


def _hooked(container: Container, marks: Marks) -> bool:
    """Whether the postStart hook, if there is one, has returned."""
    hook = marks.post_start
    return container.post_start is None or (hook is not None and hook.ended is not None)


def is_ready(container: Container, run: Run, seen: Seen) -> bool:
    """Whether a run counts as ready: it is started, and its readiness probe holds."""
    return is_started(container, run, seen) and (container.readiness is None or seen.marks_of(run).ready)
