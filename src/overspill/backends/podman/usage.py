"""What containers use, from Podman's cgroup statistics and the cgroups themselves.

In: `Stats`, runs, the cgroup file system as far as it is in sight. Out: `PodUsage`. Invariants: only
running containers are reported; memory is the working set, as a kubelet counts it: without the part of
the page cache that the kernel would give back first, which Podman counts in and does not tell apart.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.backends.podman.api import Stats
from overspill.backends.podman.seen import Run
from overspill.model.work import Identity

__all__ = ["pod_usage"]

CGROUPS = Path("/sys/fs/cgroup")
# Where Podman puts a container: by hierarchy (version 1, version 2) and by who makes the cgroup.
PLACES = tuple(
    f"{hierarchy}{name}/memory.stat"
    for hierarchy in ("memory/", "")
    for name in ("libpod_parent/libpod-{id}", "machine.slice/libpod-{id}.scope")
)
# Version 1 has a figure without the children under the shorter name, so the longer one comes first.
INACTIVE = (b"total_inactive_file ", b"inactive_file ")


def pod_usage(
    identity: Identity,
    runs: Iterable[Run],
    stats: Mapping[str, Stats],
    *,
    sampled_at: float,
    cgroups: Path = CGROUPS,
) -> PodUsage:
    """One pod's usage; page cache counts in full where the cgroups are out of sight."""
    found = [(run, stats[run.id]) for run in runs if run.id in stats]
    return PodUsage(
        identity,
        sampled_at,
        tuple(
            ContainerUsage(
                run.container,
                stat.cpu_nanoseconds / 1e9,
                max(0, stat.memory_bytes - _inactive_file(cgroups, run.id)),
                run.started_at,
            )
            for run, stat in found
        ),
    )


def _inactive_file(cgroups: Path, container: str) -> int:
    for place in PLACES:
        try:
            text = (cgroups / place.format(id=container)).read_bytes()
        except OSError:  # not here, or the container has just ended
            continue
        for name in INACTIVE:
            _, found, rest = text.partition(b"\n" + name)
            if found:
                return int(rest.split(b"\n", 1)[0])
    return 0
