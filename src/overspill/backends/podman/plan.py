"""What to do next for one pod: the kubelet's rules as a pure function.

In: the `WorkSpec`, what is seen of the pod, and the time. Out: one `Step` for
`supervisor.py` to take, after which it looks and asks again. Invariant: no
I/O, no clock; the same inputs give the same step, so that an agent that was
killed goes on where it stood.
Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Iterable

from msgspec import Struct

from overspill.backends.podman.seen import Deletion, Eviction, Run, Seen, latest_runs
from overspill.model.work import Container, WorkSpec

__all__ = [
    "MINIMUM_GRACE",
    "CreateRun",
    "CreateSandbox",
    "Discard",
    "Pull",
    "RemoveEverything",
    "RemoveSandbox",
    "Signal",
    "StartRun",
    "StartSandbox",
    "Step",
    "StopSandbox",
    "Wait",
    "completed",
    "ending",
    "next_delay",
    "next_step",
    "restart_at",
]

MINIMUM_GRACE = 2.0  # seconds that every container has at least; the kubelet's minimumGracePeriodInSeconds
BACKOFF_BASE, BACKOFF_CAP = 10.0, 300.0  # seconds
GOOD_RUN = 600.0  # seconds after which a run counts as good, and the next end starts from no back-off
# Seconds until a process that was started can hear a signal; before, it is lost or hits runc's own init.
SETTLE = 0.25
FRESH = 2.0  # seconds for which a failed pull shows as ErrImagePull; later as ImagePullBackOff
SIGKILL = 9
CUT_OFF = Deletion(at=0.0, grace=0.0)


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


class Discard(Struct, frozen=True):
    """Remove runs that are older than the previous one."""

    runs: tuple[Run, ...]


class Signal(Struct, frozen=True):
    """Send to each run SIGKILL, or else the signal by which it wants to be stopped."""

    runs: tuple[Run, ...]
    kill: bool


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
    | Discard
    | Signal
    | RemoveEverything
    | Wait
)


def next_step(work: WorkSpec | None, seen: Seen, now: float) -> Step:
    """The step that comes next; `work` is None where only remains of a pod were found."""
    if seen.deletion:
        return _end(seen, seen.deletion, now) or RemoveEverything()
    if work is None:
        return Wait() if seen.sandbox or seen.runs else RemoveEverything()
    if over := ending(work, seen, now):
        grace = float(work.termination_grace_period_seconds)
        return _end(seen, Deletion(over.at, grace), now) or _rest(seen)
    if completed(work, seen):
        return _rest(seen)
    return (
        _sandbox(seen, now)
        or _containers(work, seen, now)
        or Wait(_earliest([_deadline(work, seen), *_wakes(work, seen, now)]))
    )


def next_delay(before: float | None) -> float:
    """The back-off that follows one of `before` seconds: 10 s, doubling to 300 s."""
    return min(BACKOFF_CAP, max(BACKOFF_BASE, 2 * (before or 0.0)))


def restart_at(work: WorkSpec, run: Run) -> tuple[float, float] | None:
    """When the run after an ended one is due, and the back-off before it; None if there is to be none.

    The first restart comes at once, as does one after a good run.
    """
    failed = run.exit_code != 0
    init = any(container.name == run.container for container in work.init_containers)
    if work.restart_policy == "Never" or ((init or work.restart_policy == "OnFailure") and not failed):
        return None
    good = run.finished_at - run.started_at >= GOOD_RUN
    backoff = 0.0 if run.number == 0 or good else next_delay(run.backoff)
    return run.finished_at + backoff, backoff


def completed(work: WorkSpec, seen: Seen) -> bool:
    """Whether nothing of the pod runs or will run again, by its own doing."""
    latest = latest_runs(seen.runs)
    if any(_lost(work, latest.get(init.name)) for init in work.init_containers):
        return not seen.live
    runs = [latest.get(container.name) for container in work.containers]
    return all(run and run.state == "exited" and restart_at(work, run) is None for run in runs)


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


def _lost(work: WorkSpec, run: Run | None) -> bool:
    """Whether an init container failed for good."""
    return bool(run and run.state == "exited" and run.exit_code and restart_at(work, run) is None)


def _deadline(work: WorkSpec, seen: Seen) -> float | None:
    if work.active_deadline_seconds is None:
        return None
    return seen.taken_at + work.active_deadline_seconds


def _end(seen: Seen, deletion: Deletion, now: float) -> Step | None:
    """Stop, wait out the grace, kill; None once nothing runs."""
    if not seen.live:
        return None
    kill_at = deletion.at + max(MINIMUM_GRACE, deletion.grace)
    if now < kill_at:
        unasked = [run for run in seen.live if run.id not in seen.signalled]
        hearing = tuple(run for run in unasked if now >= run.started_at + SETTLE)
        if hearing:
            return Signal(hearing, kill=False)
        return Wait(min([kill_at, *(run.started_at + SETTLE for run in unasked)]))
    unkilled = tuple(run for run in seen.live if seen.signalled.get(run.id) != SIGKILL)
    return Signal(unkilled, kill=True) if unkilled else Wait()


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
    # Its network went with the infra container: what still runs is cut off, and starts again by its policy.
    return _end(seen, CUT_OFF, now) or StartSandbox()


def _containers(work: WorkSpec, seen: Seen, now: float) -> Step | None:
    """The first container's step that can be taken now; None when all have to wait."""
    for container in _due_containers(work, seen):
        step = _container(work, container, seen, now)
        if not isinstance(step, Wait):
            return step
    old = tuple(run for name in _container_names(work) for run in seen.runs_of(name)[2:])
    return Discard(old) if old else None


def _wakes(work: WorkSpec, seen: Seen, now: float) -> list[float | None]:
    steps = (_container(work, container, seen, now) for container in _due_containers(work, seen))
    return [step.until for step in steps if isinstance(step, Wait)]


def _due_containers(work: WorkSpec, seen: Seen) -> tuple[Container, ...]:
    """The init container whose turn it is, or all app containers."""
    latest = latest_runs(seen.runs)
    for init in work.init_containers:
        run = latest.get(init.name)
        if run is None or run.state != "exited" or run.exit_code:
            return (init,)
    return work.containers


def _container(work: WorkSpec, container: Container, seen: Seen, now: float) -> Step:
    runs = seen.runs_of(container.name)
    if not runs:
        return _new_run(container, 0, 0.0, seen=seen, now=now)
    latest = runs[0]
    if latest.state == "running":
        return Wait()
    if latest.state == "created":
        return _after_trouble(container, seen, now) or StartRun(latest)
    due = restart_at(work, latest)
    if due is None:
        return Wait()
    at, backoff = due
    if now < at:
        return Wait(at)
    return _new_run(container, latest.number + 1, backoff, seen=seen, now=now)


def _new_run(container: Container, number: int, backoff: float, *, seen: Seen, now: float) -> Step:
    if wait := _after_trouble(container, seen, now):
        return wait
    image = seen.images.get(container.name)
    if image is None or image.number != number:
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


def _container_names(work: WorkSpec) -> list[str]:
    return [container.name for container in (*work.init_containers, *work.containers)]


def _earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
