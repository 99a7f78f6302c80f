"""Pods that put more on disk than their emptyDir's limit allows are given up, as the kubelet does.

In: supervisors. Out: `Supervisor.evict`. Invariant: only pods with such a limit cost anything.
Source: https://kubernetes.io/docs/concepts/storage/volumes/#emptydir
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from overspill.backends.podman.supervisor import Supervisor
from overspill.backends.podman.trees import disk_usage
from overspill.model.work import EmptyDir

__all__ = ["enforce_limits", "enforce_once"]

log = structlog.get_logger(__name__)

PERIOD = 10.0  # seconds; the kubelet's housekeeping interval


async def enforce_limits(supervisors: Callable[[], Iterable[Supervisor]]) -> None:
    """Look at the limited volumes again and again."""
    while True:
        await enforce_once(supervisors())
        await asyncio.sleep(PERIOD)


async def enforce_once(supervisors: Iterable[Supervisor]) -> None:
    """Look at the limited volumes of some pods."""
    for supervisor in supervisors:
        try:
            await _enforce(supervisor)
        except Exception:  # whatever a pod has made of its volumes, the agent and the other pods go on
            log.exception("volumes not measured", pod=supervisor.pod.identity.name)


async def _enforce(supervisor: Supervisor) -> None:
    work = supervisor.pod.work
    for name, volume in (work.volumes if work else {}).items():
        if not isinstance(volume, EmptyDir) or volume.medium == "Memory" or volume.size_limit is None:
            continue
        used = await asyncio.to_thread(disk_usage, supervisor.pod.folder.volume(name))
        if used > volume.size_limit:
            message = f'Usage of EmptyDir volume "{name}" exceeds the limit "{volume.size_limit}".'
            supervisor.evict("Evicted", message)
