"""What to do next for one pod: the kubelet's rules as a pure function.

In: the `WorkSpec`, what is seen of the pod, and the time. Out: one `Step` for
`supervisor.py` to take, after which it looks and asks again. Invariant: no
I/O, no clock; the same inputs give the same step, so that an agent that was
killed goes on where it stood.
Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from overspill.backends.podman.ends import MINIMUM_GRACE, SIGKILL, Ends, ends_of, ends_of_doomed
from overspill.backends.podman.reimaging import is_outdated
from overspill.backends.podman.resizing import resize_trouble, resized_by
from overspill.backends.podman.seen import Deletion, Eviction, Run, Seen
from overspill.backends.podman.turns import (
    all_containers,
    completed,
    completed_at,
    due_containers,
    restart_at,
)
from overspill.model.work import Container, WorkSpec

__all__ = [
    "PAUSE",
    "CreateRun",
    "CreateSandbox",
    "Discard",
    "Pull",
    "RemoveEverything",
    "RemoveSandbox",
    "Resize",
    "Restart",
    "RunHooks",
    "Signal",
    "StartRun",
    "StartSandbox",
    "Step",
    "StopSandbox",
    "Wait",
    "end_unseen",
    "ending",
    "next_step",
]

FRESH = 2.0  # seconds for which a failed pull shows as ErrImagePull; later as ImagePullBackOff
# Seconds before a failed step or look is taken again, unless something happens earlier, such as Podman's return.
PAUSE = 5.0


class CreateSandbox(Struct, frozen=True):
    """Make the pod with its infra container and whatever its volumes need."""


class StartSandbox(Struct, frozen=True):
    """Start the infra container, by which the pod gets its address."""


class StopSandbox(Struct, frozen=True):
    """End the infra container: the pod is done, its address free."""


class RemoveSandbox(Struct, frozen=True):
    """Remove a pod whose making was cut short."""


class Pull(Struct, frozen=True):
    """Have the image for the run `number` of a container at hand, as its pull policy wants."""

    container: Container
    number: int


class CreateRun(Struct, frozen=True):
    """Make the container of Podman for the run `number`."""

    container: Container
    number: int
    backoff: float


class StartRun(Struct, frozen=True):
    """Start what was made."""

    run: Run


class Resize(Struct, frozen=True):
    """Give a run the resources that its container should have by now."""

    container: Container
    run: Run


class Restart(Struct, frozen=True):
    """End a run, so that the next one is as its container should be by now: why, as its marks will have it."""

    run: Run
    why: Literal["Resize", "Image"]


class Discard(Struct, frozen=True):
    """Remove runs that are older than the previous one."""

    runs: tuple[Run, ...]


class Signal(Struct, frozen=True):
    """Send to each run SIGKILL, or else the signal by which it wants to be stopped."""

    runs: tuple[Run, ...]
    kill: bool


class RunHooks(Struct, frozen=True):
    """Begin the hook of each run; it goes on beside the steps."""

    runs: tuple[Run, ...]
    hook: Literal["post_start", "pre_stop"]


class RemoveEverything(Struct, frozen=True):
    """Leave nothing of the pod."""


class Wait(Struct, frozen=True):
    """Nothing to do before `until`, or before something changes."""

    until: float | None = None


Step = (
    CreateSandbox
    | StartSandbox
    | StopSandbox
    | RemoveSandbox
    | Pull
    | CreateRun
    | StartRun
    | Resize
    | Restart
    | Discard
    | RunHooks
    | Signal
    | RemoveEverything
    | Wait
)


def next_step(work: WorkSpec | None, seen: Seen, now: float) -> Step:
    """The step that comes next; `work` is None where only remains of a pod were found."""
    if seen.deletion:
        return _end(work, seen, seen.deletion, now) or RemoveEverything()
    if work is None:
        return Wait() if seen.sandbox or seen.runs else RemoveEverything()
    if over := ending(work, seen, now):
        return _end(work, seen, Deletion(over.at, _grace(work)), now) or _rest(seen)
    if (done_at := completed_at(work, seen)) is not None:
        # Only sidecars and ephemeral containers can be left.
        return _end(work, seen, Deletion(done_at, _grace(work)), now) or _rest(seen)
    doomed = ends_of_doomed(work, seen, now)
    return (
        _sandbox(seen, now)
        or _act(doomed)
        or _containers(work, seen, now)
        or Wait(_earliest([_deadline(work, seen), *doomed.until, *_wakes(work, seen, now)]))
    )


def end_unseen(work: WorkSpec | None, seen: Seen, now: float) -> Step:
    """The step that comes next for a deleted pod that Podman cannot tell of.

    More may run than is known, and what is known to run may have ended: the pod has the whole of its grace,
    unless Podman can tell of it sooner.
    """
    assert seen.deletion
    over_at = seen.deletion.at + seen.deletion.grace + MINIMUM_GRACE
    if now >= over_at:
        return RemoveEverything()
    ends = ends_of(work, seen, seen.deletion, now)
    return _act(ends) or Wait(_earliest([over_at, now + PAUSE, *ends.until]))


def ending(work: WorkSpec, seen: Seen, now: float) -> Eviction | None:
    """Why and when the backend ended the pod: evicted, or its deadline passed before it was completed."""
    if seen.eviction:
        return seen.eviction
    deadline = _deadline(work, seen)
    if deadline is None or now < deadline:
        return None
    if completed(work, seen) and max((run.finished_at for run in seen.runs), default=0.0) < deadline:
        return None
    return Eviction(
        deadline, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
    )


def _grace(work: WorkSpec) -> float:
    return float(work.termination_grace_period_seconds)


def _deadline(work: WorkSpec, seen: Seen) -> float | None:
    if work.active_deadline_seconds is None:
        return None
    return seen.taken_at + work.active_deadline_seconds


def _end(work: WorkSpec | None, seen: Seen, deletion: Deletion, now: float) -> Step | None:
    """Bring all that runs to its end; None once nothing runs."""
    if not seen.live:
        return None
    ends = ends_of(work, seen, deletion, now)
    return _act(ends) or Wait(_earliest(ends.until))


def _act(ends: Ends) -> Step | None:
    if ends.hooks:
        return RunHooks(tuple(ends.hooks), "pre_stop")
    if ends.stops:
        return Signal(tuple(ends.stops), kill=False)
    return Signal(tuple(ends.kills), kill=True) if ends.kills else None


def _rest(seen: Seen) -> Step:
    return StopSandbox() if seen.sandbox and seen.sandbox.running else Wait()


def _sandbox(seen: Seen, now: float) -> Step | None:
    """Bring the sandbox up; None once it is."""
    trouble = seen.troubles.get("")
    if seen.sandbox and seen.sandbox.running and seen.sandbox.ips:
        return None
    if trouble and trouble.delay is not None and now < trouble.at + trouble.delay:
        return Wait(trouble.at + trouble.delay)
    if seen.sandbox is None:
        return CreateSandbox()
    if not seen.sandbox.infra:
        return RemoveSandbox()
    return _cut_off(seen) or StartSandbox()


def _cut_off(seen: Seen) -> Step | None:
    """End what has lost its network with the infra container, to start again by its policy; None once nothing runs."""
    left = tuple(run for run in seen.live if seen.signalled.get(run.id) != SIGKILL)
    if left:
        return Signal(left, kill=True)
    return Wait() if seen.live else None


def _containers(work: WorkSpec, seen: Seen, now: float) -> Step | None:
    """The first container's step that can be taken now; None when all have to wait."""
    due = due_containers(work, seen)
    for container in due:
        step = _container(work, container, seen, now)
        if not isinstance(step, Wait):
            return step
    unhooked = tuple(run for container in due if (run := _unhooked(container, seen)))
    if unhooked:
        return RunHooks(unhooked, "post_start")
    leant_on = _leant_on(work, seen)
    old = tuple(
        run
        for container in all_containers(work)
        for run in seen.runs_of(container.name)[2:]
        if run.id not in leant_on
    )
    return Discard(old) if old else None


def _leant_on(work: WorkSpec, seen: Seen) -> set[str]:
    """The runs whose processes an ephemeral container sees: Podman removes none of them before it."""
    leant_on: set[str] = set()
    for container in work.ephemeral_containers:
        for joined in seen.runs_of(container.name):
            earlier = [run for run in seen.runs_of(container.target) if run.created_at <= joined.created_at]
            leant_on.update(run.id for run in earlier[:1])
    return leant_on


def _unhooked(container: Container, seen: Seen) -> Run | None:
    """The container's run, if its postStart hook is still to be begun."""
    if container.post_start is None:
        return None
    run = next(iter(seen.runs_of(container.name)), None)
    if run is None or run.state != "running" or seen.marks_of(run).post_start:
        return None
    return run


def _wakes(work: WorkSpec, seen: Seen, now: float) -> list[float | None]:
    steps = (_container(work, container, seen, now) for container in due_containers(work, seen))
    return [step.until for step in steps if isinstance(step, Wait)]


def _container(work: WorkSpec, container: Container, seen: Seen, now: float) -> Step:
    runs = seen.runs_of(container.name)
    if not runs:
        return _new_run(container, 0, 0.0, seen=seen, now=now)
    latest = runs[0]
    if latest.state == "running":
        return _renewed(work, container, latest, seen, now)
    if latest.state == "created":
        return _after_trouble(container, seen, now) or StartRun(latest)
    due = restart_at(work, latest, doomed=seen.marks_of(latest).doomed)
    if due is None:
        return Wait()
    at, backoff = due
    if now < at:
        return Wait(at)
    return _new_run(container, latest.number + 1, backoff, seen=seen, now=now)


def _renewed(work: WorkSpec, container: Container, run: Run, seen: Seen, now: float) -> Step:
    """What a running container lacks of what it should be by now; an init container that passes by runs on as it is."""
    passes_by = container in work.init_containers and container.restart_policy != "Always"
    if is_outdated(container, run) and not passes_by:
        return Wait() if seen.marks_of(run).doomed else Restart(run, "Image")
    way = resized_by(container, run, seen)
    if not way:
        return Wait()
    trouble = resize_trouble(container, seen)
    if trouble and trouble.delay is not None and now < trouble.at + trouble.delay:
        return Wait(trouble.at + trouble.delay)
    return Restart(run, "Resize") if way == "restart" else Resize(container, run)


def _new_run(container: Container, number: int, backoff: float, *, seen: Seen, now: float) -> Step:
    if wait := _after_trouble(container, seen, now):
        return wait
    image = seen.images.get(container.name)
    if image is None or (image.number, image.name) != (number, container.image):
        return Pull(container, number)
    return CreateRun(container, number, backoff)


def _after_trouble(container: Container, seen: Seen, now: float) -> Wait | None:
    """Wait for the next attempt, or for the moment at which the trouble shows under another name."""
    trouble = seen.troubles.get(container.name)
    if trouble is None:
        return None
    again = None if trouble.delay is None else trouble.at + trouble.delay
    if again is not None and now >= again:
        return None
    return Wait(_earliest([again, trouble.at + FRESH if now < trouble.at + FRESH else None]))


def _earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
