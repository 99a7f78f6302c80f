"""What containers use, from Podman's cgroup statistics.

In: `Stats`, runs. Out: `PodUsage`. Pure. Invariant: only running containers are reported.
"""

from collections.abc import Iterable, Mapping

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.backends.podman.api import Stats
from overspill.backends.podman.seen import Run
from overspill.model.work import Identity

__all__ = ["pod_usage"]


def pod_usage(
    identity: Identity, runs: Iterable[Run], stats: Mapping[str, Stats], *, sampled_at: float
) -> PodUsage:
    """One pod's usage; memory is the cgroup's, page cache included."""
    found = [(run, stats[run.id]) for run in runs if run.id in stats]
    return PodUsage(
        identity,
        sampled_at,
        tuple(
            ContainerUsage(run.container, stat.cpu_nanoseconds / 1e9, stat.memory_bytes, run.started_at)
            for run, stat in found
        ),
    )
