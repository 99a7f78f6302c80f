"""From what is seen of a pod to the `Observation` of it, in the kubelet's words.

In: `WorkSpec` (None where only remains were found), `Seen`, the time. Out: an
`Observation`. Pure. Invariant: it says only what Podman said or what
`plan.py` will do; a restart that is due shows as such before it happens.
"""

from overspill.backends.podman.plan import FRESH, ending, restart_at
from overspill.backends.podman.seen import Run, Seen, Trouble, latest_runs
from overspill.model.observation import ContainerObservation, Observation, Running, State, Terminated, Waiting
from overspill.model.work import Container, Identity, WorkSpec

__all__ = ["observe"]

PULL_FAILED = {"ErrImagePull", "ErrImageNeverPull"}


def observe(identity: Identity, work: WorkSpec | None, seen: Seen, now: float) -> Observation:
    """The pod as it stands."""
    if work is None:
        return _remains(identity, seen)
    over = ending(work, seen, now)
    final = bool(over or seen.deletion)

    def observed(container: Container) -> ContainerObservation:
        return _container(work, container, seen, final=final, now=now)

    return Observation(
        identity=identity,
        started_at=seen.taken_at,
        containers=tuple(map(observed, work.containers)),
        init_containers=tuple(map(observed, work.init_containers)),
        ips=_ips(seen),
        reason=over.reason if over else "",
        message=over.message if over else _sandbox_message(seen),
        failed=over is not None,
        deleting=seen.deletion is not None,
    )


def _remains(identity: Identity, seen: Seen) -> Observation:
    runs = latest_runs(seen.runs)
    return Observation(
        identity=identity,
        started_at=seen.taken_at,
        containers=tuple(_from_run(run, image=run.image) for _, run in sorted(runs.items())),
        ips=_ips(seen),
        deleting=seen.deletion is not None,
    )


def _ips(seen: Seen) -> tuple[str, ...]:
    if seen.sandbox and seen.sandbox.ips:
        return seen.sandbox.ips
    newest = max(seen.runs, key=lambda run: run.created_at, default=None)
    return (newest.address,) if newest and newest.address else ()


def _sandbox_message(seen: Seen) -> str:
    trouble = seen.troubles.get("")
    return f"{trouble.reason}: {trouble.message}" if trouble else ""


def _container(
    work: WorkSpec, container: Container, seen: Seen, *, final: bool, now: float
) -> ContainerObservation:
    runs = seen.runs_of(container.name)
    trouble = None if final else seen.troubles.get(container.name)
    if not runs:
        image = seen.images.get(container.name)
        return ContainerObservation(
            name=container.name,
            state=_trouble_state(trouble, container, now) if trouble else _not_yet(work),
            image=container.image,
            image_id=image.image_id if image else "",
        )
    due = None if final or runs[0].state != "exited" else restart_at(work, runs[0])
    waiting = _between_runs(work, container, runs[0], trouble=trouble, due=due, now=now)
    return _from_run(
        runs[0],
        image=container.image,
        previous=runs[1] if runs[1:] else None,
        waiting=waiting,
        will_restart=due is not None,
    )


def _from_run(
    run: Run,
    *,
    image: str,
    previous: Run | None = None,
    waiting: Waiting | None = None,
    will_restart: bool = False,
) -> ContainerObservation:
    ended = _terminated(run) if run.state == "exited" else None
    last = ended if waiting and ended else _terminated(previous) if previous else None
    running = run.state == "running"
    return ContainerObservation(
        name=run.container,
        state=waiting or _state(run),
        image=image,
        image_id=run.image_id,
        container_id=f"podman://{run.id}",
        last_state=last,
        ready=running,
        started=running,
        restarts=run.number,
        will_restart=will_restart,
    )


def _state(run: Run) -> State:
    if run.state == "created":
        return Waiting("ContainerCreating")
    return Running(run.started_at) if run.state == "running" else _terminated(run)


def _between_runs(
    work: WorkSpec,
    container: Container,
    run: Run,
    *,
    trouble: Trouble | None,
    due: tuple[float, float] | None,
    now: float,
) -> Waiting | None:
    """What a container that has run waits for; None when it runs or its end is what there is to say."""
    if run.state == "running":
        return None
    if trouble:
        return _trouble_state(trouble, container, now)
    if due is None or not due[1]:
        return None
    who = work.identity
    return Waiting(
        "CrashLoopBackOff",
        f"back-off {_duration(due[1])} restarting failed container={container.name} "
        f"pod={who.name}_{who.namespace}({who.uid})",
    )


def _duration(seconds: float) -> str:
    """As Go prints a duration, the way the kubelet's messages have it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _terminated(run: Run) -> Terminated:
    if run.failure:
        return Terminated(128, "StartError", run.finished_at, run.finished_at, message=run.failure)
    reason = "OOMKilled" if run.oom_killed else "Error" if run.exit_code else "Completed"
    return Terminated(run.exit_code, reason, run.started_at, run.finished_at)


def _not_yet(work: WorkSpec) -> Waiting:
    return Waiting("PodInitializing" if work.init_containers else "ContainerCreating")


def _trouble_state(trouble: Trouble, container: Container, now: float) -> Waiting:
    """A failed pull shows as itself for a moment, then as waiting for the next attempt."""
    if trouble.reason not in PULL_FAILED or now < trouble.at + FRESH:
        return Waiting(trouble.reason, trouble.message)
    if trouble.reason == "ErrImageNeverPull":
        return Waiting(trouble.reason, trouble.message)
    return Waiting(
        "ImagePullBackOff", f'Back-off pulling image "{container.image}": {trouble.reason}: {trouble.message}'
    )
