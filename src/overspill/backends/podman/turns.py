"""Which containers of a pod are to run now, which run again after an end, and when all is over.

In: the `WorkSpec` and what is seen of the pod. Out: containers, times, answers.
Pure. Invariant: an init container begins only after everything before it has
succeeded or, if it is a sidecar, has started.
Sources: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/,
https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/, KEP-753, KEP-5307.
"""

from collections.abc import Iterator

from overspill.backends.podman.probes import is_started
from overspill.backends.podman.reimaging import is_outdated
from overspill.backends.podman.seen import Run, Seen, latest_runs
from overspill.model.work import Container, WorkSpec

__all__ = [
    "all_containers",
    "completed",
    "completed_at",
    "due_containers",
    "is_over",
    "next_delay",
    "restart_at",
    "sidecars",
]

BACKOFF_BASE, BACKOFF_CAP = 10.0, 300.0  # seconds
GOOD_RUN = 600.0  # seconds after which a run counts as good, and the next end starts from no back-off


def all_containers(work: WorkSpec | None) -> tuple[Container, ...]:
    """Init containers, app containers and ephemeral containers, in that order."""
    return (*work.init_containers, *work.containers, *work.ephemeral_containers) if work else ()


def sidecars(work: WorkSpec) -> tuple[str, ...]:
    """The init containers that run beside the others, in the order of their start."""
    return tuple(init.name for init in work.init_containers if init.restart_policy == "Always")


def due_containers(work: WorkSpec, seen: Seen) -> tuple[Container, ...]:
    """The containers that should run now, in the order of their start."""
    return tuple(_until_hook(_due(work, seen), seen))


def _due(work: WorkSpec, seen: Seen) -> Iterator[Container]:
    yield from work.ephemeral_containers
    latest = latest_runs(seen.runs)
    begun = _begun(work, latest)
    for index, init in enumerate(work.init_containers):
        yield init
        run = latest.get(init.name)
        if init.restart_policy != "Always":
            if run is None or run.state != "exited" or run.exit_code:
                return
        elif index >= begun and not is_started(init, run, seen):
            return
    yield from work.containers


def _begun(work: WorkSpec, latest: dict[str, Run]) -> int:
    """How many of the init containers have been passed: a sidecar that falls later on holds up nobody."""
    if any(container.name in latest for container in work.containers):
        return len(work.init_containers)
    ran = [index for index, init in enumerate(work.init_containers) if init.name in latest]
    return max(ran, default=0)


def _until_hook(containers: Iterator[Container], seen: Seen) -> Iterator[Container]:
    """Those up to the first whose postStart hook has not returned: the kubelet starts no other meanwhile."""
    for container in containers:
        yield container
        if container.post_start is None:
            continue
        runs = seen.runs_of(container.name)
        if runs and runs[0].state == "running":
            hook = seen.marks_of(runs[0]).post_start
            if hook is None or hook.ended is None:
                return


def next_delay(before: float | None) -> float:
    """The back-off that follows one of `before` seconds: 10 s, doubling to 300 s."""
    return min(BACKOFF_CAP, max(BACKOFF_BASE, 2 * (before or 0.0)))


def restart_at(work: WorkSpec, run: Run, *, doomed: str = "") -> tuple[float, float] | None:
    """When the run after an ended one is due, and the back-off before it; None if there is to be none.

    The first restart comes at once, as does one after a good run, one that a resize asked for, and one with another
    image. A run that was `doomed` has failed, whatever it ended with.
    """
    if not _restarts(work, run, doomed=doomed):
        return None
    container = next((c for c in all_containers(work) if c.name == run.container), None)
    changed = doomed == "Resize" or (container is not None and is_outdated(container, run))
    good = (run.started_at and run.finished_at - run.started_at >= GOOD_RUN) or changed
    backoff = 0.0 if run.number == 0 or good else next_delay(run.backoff)
    return run.finished_at + backoff, backoff


def _restarts(work: WorkSpec, run: Run, *, doomed: str) -> bool:
    if doomed == "Image":
        return True  # whatever its policy: it did not end by itself
    failed = bool(doomed) or run.exit_code != 0
    init = next((c for c in work.init_containers if c.name == run.container), None)
    container = init or next((c for c in work.containers if c.name == run.container), None)
    if container is None:
        return False  # an ephemeral one
    if any((run.exit_code in rule.values) == (rule.operator == "In") for rule in container.restart_rules):
        return True
    policy = container.restart_policy or work.restart_policy
    if policy == "Always" and init and container.restart_policy is None:
        policy = "OnFailure"
    return policy == "Always" or (policy == "OnFailure" and failed)


def completed(work: WorkSpec, seen: Seen) -> bool:
    """Whether the containers that decide have all ended for good; sidecars may still run."""
    return completed_at(work, seen) is not None


def completed_at(work: WorkSpec, seen: Seen) -> float | None:
    """When the last of the containers that decide ended for good; None before that."""
    latest = latest_runs(seen.runs)
    for init in work.init_containers:
        run = latest.get(init.name)
        if run and init.restart_policy != "Always" and run.exit_code and is_over(work, run, seen):
            return run.finished_at  # for good: no app container will ever begin
    runs = [latest.get(container.name) for container in work.containers]
    ends = [run.finished_at for run in runs if run and is_over(work, run, seen)]
    return max(ends) if len(ends) == len(runs) else None


def is_over(work: WorkSpec, run: Run, seen: Seen) -> bool:
    """Whether a run has ended, and none comes after it."""
    return run.state == "exited" and restart_at(work, run, doomed=seen.marks_of(run).doomed) is None
