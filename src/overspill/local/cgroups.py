"""The cgroup under which a cluster's kubelet keeps its pods.

In: a name. Out: one folder of that name per hierarchy (cgroup v1, hybrid or v2). Invariant: a kubelet that
shared `kubepods` with another would take the other's pods for leftovers and kill them.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["container_cgroups", "ensure_cgroup", "pids_in_cgroup", "remove_cgroup"]

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


def _hierarchies() -> list[Path]:
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    return [folder for folder in sorted(MOUNT.iterdir()) if folder.is_dir() and not folder.is_symlink()]


def ensure_cgroup(name: str) -> None:
    """Have the cgroup in every hierarchy, able to hold limited children."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        # cpuset of v1: an empty set takes no process, and is not inherited by itself.
        for file in ("cpuset.cpus", "cpuset.mems"):
            target = folder / file
            if target.exists() and hierarchy.name != MOUNT.name and not target.read_text().strip():
                target.write_text((hierarchy / file).read_text())
        _hand_down(hierarchy, folder)


def _hand_down(hierarchy: Path, folder: Path) -> None:
    """Let children have the controllers (v2 only); one that the kernel lacks is left out."""
    for parent in (hierarchy, folder):
        file = parent / "cgroup.subtree_control"
        if file.exists() and hierarchy == MOUNT:
            for controller in CONTROLLERS:
                with contextlib.suppress(OSError):
                    file.write_text(f"+{controller}")


def _tree(name: str) -> Iterator[Path]:
    """The cgroup and everything below it, deepest first."""
    for hierarchy in _hierarchies():
        # Containers end while we look; os.walk passes over what is gone.
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            yield Path(folder)


def pids_in_cgroup(name: str) -> set[int]:
    """Processes in the cgroup or below it."""
    found: set[int] = set()
    for folder in _tree(name):
        with contextlib.suppress(OSError):
            found |= {int(word) for word in (folder / "cgroup.procs").read_text().split()}
    return found


def container_cgroups(pids: Iterable[int]) -> set[str]:
    """The cgroups that Podman made for containers of these processes."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
                name = line.split(":", 2)[2].strip("/")
                if name.startswith("libpod_parent/libpod"):
                    found.add(name)
    return found


def remove_cgroup(name: str) -> None:
    """Remove the cgroup, which has no process any more."""
    for folder in _tree(name):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
