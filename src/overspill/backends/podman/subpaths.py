"""Where on the host each mount of a container comes from, a `subPath` of a volume among them.

In: a container's mounts, the pod's folder. Out: a path per mount. Invariant: none leads out of its volume,
whatever links the pod's containers have put there; a subPath that is missing is made as a directory.
A subPath of files is the file of that moment, so that it never changes: the kubelet does it alike.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeMounts), pkg/volume/util/subpath.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from overspill.backends.podman.folder import Folder
from overspill.backends.podman.security import ConfigError
from overspill.model.work import Container, Mount

__all__ = ["mount_sources"]


def mount_sources(folder: Folder, container: Container) -> Mapping[Mount, str]:
    """The path on the host of each mount; missing subPaths are made.

    Raises:
        ConfigError: a subPath leads out of its volume, round in it, or is none.
    """
    return {mount: str(_source(folder.volume(mount.volume), mount, container)) for mount in container.mounts}


def _source(volume: Path, mount: Mount, container: Container) -> Path:
    base = volume.resolve()
    if not mount.sub_path:
        return base
    try:
        wanted = (base / mount.sub_path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a circle of links, a NUL
        raise _refused(mount, container, str(error)) from error
    if not wanted.is_relative_to(base):
        raise _refused(mount, container, f"subpath {mount.sub_path!r} leads out of its volume")
    try:
        _make(base, wanted)
    except OSError as error:
        raise _refused(mount, container, str(error)) from error
    return wanted


def _make(base: Path, wanted: Path) -> None:
    """Make the directories that are missing, following no link: one put there by now is an error."""
    like = stat.S_IMODE(base.stat().st_mode)
    parts = wanted.relative_to(base).parts
    here = os.open(base, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in parts:
            there = _enter(here, part, mode=like)
            os.close(here)
            here = there
    finally:
        os.close(here)


def _enter(parent: int, name: str, *, mode: int) -> int:
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=parent)
        found = os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        os.fchmod(found, mode)  # whatever the umask is
    if stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(f"{name!r} has become a link")
    return found


def _refused(mount: Mount, container: Container, why: str) -> ConfigError:
    return ConfigError(
        f"failed to prepare subPath for volumeMount {mount.volume!r} of container {container.name!r}: {why}"
    )
