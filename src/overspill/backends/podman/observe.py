"""From what is seen of a pod to the `Observation` of it, in the kubelet's words.

In: `WorkSpec` (None where only remains were found), `Seen`, the time. Out: an
`Observation`. Pure. Invariant: it says only what Podman said or what
`plan.py` will do; a restart that is due shows as such before it happens.
"""

from msgspec import structs

from overspill.backends.podman.plan import FRESH, ending
from overspill.backends.podman.probes import is_ready, is_started
from overspill.backends.podman.resizing import resize_trouble, resources_of
from overspill.backends.podman.seen import Run, Seen, Trouble, latest_runs
from overspill.backends.podman.turns import all_containers, completed, restart_at
from overspill.model.observation import ContainerObservation, Observation, Running, State, Terminated, Waiting
from overspill.model.work import Container, Identity, WorkSpec

__all__ = ["PULL_FAILED", "observe"]

SANDBOX_FAILED = "Failed to create pod sandbox"
PULL_FAILED = {"ErrImagePull", "ErrImageNeverPull"}
# Bytes of a container's termination message, and of all of a pod's together.
LONGEST_MESSAGE, LONGEST_MESSAGES = 4096, 12 << 10
HOOK_FAILED = Waiting("PostStartHookError", "PostStartHook failed")


def observe(identity: Identity, work: WorkSpec | None, seen: Seen, now: float) -> Observation:
    """The pod as it stands."""
    if work is None:
        return _remains(identity, seen)
    over = ending(work, seen, now)
    trouble = seen.troubles.get("")
    ending_now = bool(over or seen.deletion)
    done = ending_now or completed(work, seen)

    def observed(container: Container) -> ContainerObservation:
        return _container(work, container, seen, final=ending_now, now=now)

    def observed_init(init: Container) -> ContainerObservation:
        if init.restart_policy != "Always":
            return _init(observed(init))
        return structs.replace(_container(work, init, seen, final=done, now=now), sidecar=True)

    return Observation(
        identity=identity,
        started_at=seen.taken_at,
        containers=tuple(map(observed, work.containers)),
        init_containers=tuple(map(observed_init, work.init_containers)),
        ephemeral_containers=tuple(map(observed, work.ephemeral_containers)),
        ips=_ips(seen),
        reason=over.reason if over else trouble.reason if trouble else "",
        message=over.message if over else f"{SANDBOX_FAILED}: {trouble.message}" if trouble else "",
        failed=over is not None,
        ending=over is not None and any(run.state == "running" for run in seen.runs),
        deleting=seen.deletion is not None,
        unknown=seen.unknown,
    )


def _init(seen: ContainerObservation) -> ContainerObservation:
    """An ordinary init container is ready when it has succeeded."""
    succeeded = isinstance(seen.state, Terminated) and seen.state.exit_code == 0
    return seen if seen.ready == succeeded else structs.replace(seen, ready=succeeded)


def _remains(identity: Identity, seen: Seen) -> Observation:
    runs = latest_runs(seen.runs)
    return Observation(
        identity=identity,
        started_at=seen.taken_at,
        containers=tuple(
            _from_run(run, Container(name, run.image), seen) for name, run in sorted(runs.items())
        ),
        ips=_ips(seen),
        deleting=seen.deletion is not None,
        unknown=seen.unknown,
    )


def _ips(seen: Seen) -> tuple[str, ...]:
    if seen.sandbox and seen.sandbox.ips:
        return seen.sandbox.ips
    newest = max(seen.runs, key=lambda run: run.created_at, default=None)
    return (newest.address,) if newest and newest.address else ()


def _container(
    work: WorkSpec, container: Container, seen: Seen, *, final: bool, now: float
) -> ContainerObservation:
    runs = seen.runs_of(container.name)
    trouble = None if final else seen.troubles.get(container.name)
    if not runs:
        image = seen.images.get(container.name)
        return ContainerObservation(
            name=container.name,
            state=_trouble_state(trouble, container, now) if trouble else _not_yet(work, container),
            image=container.image,
            image_id=image.image_id if image else "",
            stop_signal=container.stop_signal,
            allocated=container.resources,
        )
    due = None if final or runs[0].state != "exited" else _restart_at(work, runs[0], seen)
    waiting = _between_runs(work, container, seen, trouble=trouble, due=due, now=now)
    told = _from_run(
        runs[0],
        container,
        seen,
        previous=runs[1] if runs[1:] else None,
        waiting=waiting,
        will_restart=due is not None,
    )
    return _shortened(told, LONGEST_MESSAGES // len(all_containers(work)))


def _restart_at(work: WorkSpec, run: Run, seen: Seen) -> tuple[float, float] | None:
    return restart_at(work, run, doomed=seen.marks_of(run).doomed)


def _from_run(
    run: Run,
    container: Container,
    seen: Seen,
    *,
    previous: Run | None = None,
    waiting: Waiting | None = None,
    will_restart: bool = False,
) -> ContainerObservation:
    ended = _terminated(run) if run.state == "exited" else None
    last = ended if waiting and ended else _terminated(previous) if previous else None
    return ContainerObservation(
        name=run.container,
        state=waiting or _state(run),
        image=run.asked_image or container.image,
        image_id=run.image_id,
        container_id=f"podman://{run.id}",
        last_state=last,
        ready=is_ready(container, run, seen),
        started=is_started(container, run, seen),
        restarts=run.number,
        will_restart=will_restart,
        changed_at=seen.marks_of(run).changed_at,
        stop_signal=container.stop_signal,
        allocated=container.resources,
        resources=resources_of(run, seen) if run.state == "running" else None,
        resize_trouble=trouble.message if (trouble := resize_trouble(container, seen)) else "",
    )


def _state(run: Run) -> State:
    if run.state == "created":
        return Waiting("ContainerCreating")
    return Running(run.started_at) if run.state == "running" else _terminated(run)


def _between_runs(
    work: WorkSpec,
    container: Container,
    seen: Seen,
    *,
    trouble: Trouble | None,
    due: tuple[float, float] | None,
    now: float,
) -> Waiting | None:
    """What a container that has run waits for; None when it runs or its end is what there is to say."""
    run = seen.runs_of(container.name)[0]
    if run.state == "running":
        return _before_running(work, container, run, seen)
    if trouble:
        return _trouble_state(trouble, container, now)
    if due is None:
        return None
    if not due[1]:
        return _before_restart(work, container, doomed=seen.marks_of(run).doomed)
    who = work.identity
    return Waiting(
        "CrashLoopBackOff",
        f"back-off {_duration(due[1])} restarting failed container={container.name} "
        f"pod={who.name}_{who.namespace}({who.uid})",
    )


def _before_restart(work: WorkSpec, container: Container, *, doomed: str) -> Waiting | None:
    """What a container waits for that is started anew at once.

    One that we have ended is never told to be terminated: the apiserver lets no container leave that state unless its
    restart policy starts it again, and what we do, a kubelet does without asking the policy or the exit code.
    Source: k8s.io/kubernetes pkg/apis/core/validation (ValidateContainerStateTransition)
    """
    if doomed == "PostStart":
        return HOOK_FAILED
    return _not_yet(work, container) if doomed else None


def _before_running(work: WorkSpec, container: Container, run: Run, seen: Seen) -> Waiting | None:
    """A container is not said to run before its postStart hook has returned."""
    marks = seen.marks_of(run)
    if marks.doomed == "PostStart":
        return HOOK_FAILED
    if container.post_start is None or (marks.post_start and marks.post_start.ended is not None):
        return None
    return _not_yet(work, container)


def _duration(seconds: float) -> str:
    """As Go prints a duration, the way the kubelet's messages have it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _terminated(run: Run) -> Terminated:
    if run.failure:
        return Terminated(128, "StartError", run.finished_at, run.finished_at, message=run.failure)
    reason = "OOMKilled" if run.oom_killed else "Error" if run.exit_code else "Completed"
    return Terminated(run.exit_code, reason, run.started_at, run.finished_at, message=run.message)


def _shortened(told: ContainerObservation, longest: int) -> ContainerObservation:
    """With its termination messages cut to the container's share of what a pod may say."""
    longest = min(longest, LONGEST_MESSAGE)
    state, last = told.state, told.last_state
    if isinstance(state, Terminated) and len(state.message) > longest:
        told = structs.replace(told, state=structs.replace(state, message=state.message[:longest]))
    if isinstance(last, Terminated) and len(last.message) > longest:
        told = structs.replace(told, last_state=structs.replace(last, message=last.message[:longest]))
    return told


def _not_yet(work: WorkSpec, container: Container) -> Waiting:
    """Ephemeral containers wait for no init container."""
    initializing = work.init_containers and container not in work.ephemeral_containers
    return Waiting("PodInitializing" if initializing else "ContainerCreating")


def _trouble_state(trouble: Trouble, container: Container, now: float) -> Waiting:
    """A failed pull shows as itself for a moment, then as waiting for the next attempt."""
    if trouble.reason not in PULL_FAILED or now < trouble.at + FRESH:
        return Waiting(trouble.reason, trouble.message)
    if trouble.reason == "ErrImageNeverPull":
        return Waiting(trouble.reason, trouble.message)
    return Waiting(
        "ImagePullBackOff", f'Back-off pulling image "{container.image}": {trouble.reason}: {trouble.message}'
    )
