"""A container's output: which run of it is meant, and the kubelet's words where there is none.

In: a pod's supervisor, a container's name, `LogOptions`. Out: the text in pieces. Invariant: an older run is
never taken for a newer one.
"""

from collections.abc import AsyncIterator

from overspill.backends.base import LogOptions
from overspill.backends.podman.logfile import read_log
from overspill.backends.podman.seen import Run
from overspill.backends.podman.supervisor import Supervisor
from overspill.errors import NotFound, Rejected
from overspill.model.observation import Waiting

__all__ = ["pod_logs"]

# What the kubelet's log endpoint says instead of a container's reason for waiting.
WAITING_WORDS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def pod_logs(supervisor: Supervisor, container: str, options: LogOptions) -> AsyncIterator[bytes]:
    """The output of a pod's container.

    Raises:
        NotFound: no such container, or no previous run of it.
        Rejected: it has not started.
    """
    run = _chosen_run(supervisor, container, previous=options.previous)
    path = supervisor.pod.folder.log(container, run.number)
    return read_log(path, options, ended=lambda: supervisor.ended(run))


def _chosen_run(supervisor: Supervisor, container: str, *, previous: bool) -> Run:
    """The run whose output is meant, and the kubelet's words where there is none."""
    pod, observation = supervisor.pod, supervisor.observation()
    every = (*observation.init_containers, *observation.containers, *observation.ephemeral_containers)
    shown = {c.name: c for c in every}.get(container)
    name = pod.identity.name
    if shown is None:
        raise NotFound(f"container {container} is not valid for pod {name}")
    started = [run for run in pod.seen.runs_of(container) if run.state != "created"]
    waiting = shown.state.reason if isinstance(shown.state, Waiting) else ""
    ended = started if waiting else started[1:]
    if previous:
        if not ended:
            raise NotFound(f'previous terminated container "{container}" in pod "{name}" not found')
        return ended[0]
    if not started:
        words = WAITING_WORDS.get(waiting, waiting)
        raise Rejected(f'container "{container}" in pod "{name}" is waiting to start: {words}')
    return started[0]
