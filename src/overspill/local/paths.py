"""Where a cluster keeps its files: one state folder per name, one cache for all.

In: a cluster's name and the XDG variables. Out: paths. Invariant: nothing of a cluster lies elsewhere
on this machine; what is shared by all clusters (builds, images) lies in the cache and may be deleted.
"""

import os
import re
from pathlib import Path

from msgspec import Struct

from overspill.errors import Misconfigured

__all__ = ["Paths", "cache_root", "cluster_paths", "repository", "state_root", "write_file"]

# Longer socket paths cannot be bound (sockaddr_un); the longest of ours is "podman/podman.sock".
SOCKET_PATH_LIMIT = 107


def state_root() -> Path:
    """The folder of all clusters of this user."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "overspill"


def cache_root() -> Path:
    """The folder of builds and images, shared by all clusters of this user."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "overspill"


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


def repository() -> Path:
    """The checkout this package runs from; the local cluster is built from its `controlplane/`.

    Raises:
        Misconfigured: the package was installed without its checkout.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "controlplane" / "go.mod").exists():
        raise Misconfigured(
            f"no controlplane/ beside {root}: the local cluster is built from a git checkout of overspill; "
            "clone it and run `make setup` there"
        )
    return root


class Paths(Struct, frozen=True):
    """The places within one cluster's state folder."""

    root: Path

    @property
    def plan(self) -> Path:
        """What was chosen for this cluster, as JSON."""
        return self.root / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        """Credentials of a cluster administrator."""
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Authorities, certificates, keys, and the components' kubeconfigs."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    @property
    def processes(self) -> Path:
        """One record per process."""
        return self.root / "processes"

    @property
    def config(self) -> Path:
        """Configuration files of the programs."""
        return self.root / "config"

    @property
    def namespaces(self) -> Path:
        """Handles of the machine's namespaces."""
        return self.root / "namespaces"

    @property
    def machine(self) -> Path:
        """What stands in /var/lib and /var/log of the machine."""
        return self.root / "machine"

    @property
    def podman_socket(self) -> Path:
        """The REST socket of the cloud, alone in a folder that the agents mount: a new socket is a new inode."""
        return self.root / "podman" / "podman.sock"

    @property
    def pods(self) -> Path:
        """Files of virtual nodes' pods; also /var/lib/overspill/podman of the machine."""
        return self.root / "pods"

    @property
    def emulator(self) -> Path:
        """The ECI emulator's database and secret."""
        return self.root / "emulator"

    @property
    def cloud(self) -> Path:
        """The cloud's containers and images."""
        return self.root / "cloud"


def cluster_paths(name: str) -> Paths:
    """The paths of the cluster `name`.

    Raises:
        Misconfigured: the name cannot be used, or its folder's path is too long for sockets.
    """
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", name):
        raise Misconfigured(
            f"{name!r} cannot name a cluster: use at most 32 lower case letters, digits and '-'"
        )
    paths = Paths(state_root() / name)
    if len(str(paths.podman_socket)) > SOCKET_PATH_LIMIT:
        raise Misconfigured(
            f"{paths.root} is too long a path for sockets; set XDG_STATE_HOME to a shorter one"
        )
    return paths


def write_file(path: Path, content: str | bytes, *, mode: int = 0o644) -> bool:
    """Write a file whole or not at all; returns whether its content changed."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
    part.replace(path)
    return True
