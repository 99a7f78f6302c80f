"""A pod's volumes and the two files of its own below /etc.

In: volumes as resolved by the agent. Out: directories of the pod's folder, as
the kubelet lays them out. Invariant: what is there already is left as it is,
so that preparing a pod again after a kill takes nothing from its containers.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from overspill.backends.podman.atomic import is_written, write_files
from overspill.backends.podman.folder import Folder
from overspill.errors import Rejected
from overspill.model.work import Dns, EmptyDir, Files, FlexVolume, Volume, WorkSpec

__all__ = [
    "KEPT",
    "check_paths",
    "hosts_file",
    "is_kept",
    "memory_volumes",
    "prepare",
    "resolv_conf",
]


# The driver of a flexVolume that is a directory of Podman's machine and outlives the pod; its option is `name`.
KEPT = "overspill.dev/kept"
KEPT_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}")
DEEPEST = 100  # folders of a file's path: each takes a part of the stack to make


def is_kept(volume: Volume) -> bool:
    """Whether a volume is one that outlives its pods, and rightly named."""
    if not isinstance(volume, FlexVolume) or volume.driver != KEPT:
        return False
    return volume.options.keys() == {"name"} and KEPT_NAME.fullmatch(volume.options["name"]) is not None


def check_paths(volumes: Mapping[str, Volume]) -> None:
    """Refuse a volume whose files would land outside of it, or cannot be made.

    Raises:
        Rejected: names volume and path.
    """
    for name, volume in volumes.items():
        if not isinstance(volume, Files):
            continue
        for file in volume.files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or not path.parts or path.parts[0].startswith("..") or ".." in path.parts:
                raise Rejected(f"volume {name!r}: {file.path!r} is no path inside of the volume")
            if "\0" in file.path or len(path.parts) > DEEPEST:
                raise Rejected(f"volume {name!r}: {file.path[:200]!r} is no path that can be made")


def memory_volumes(work: WorkSpec) -> dict[str, EmptyDir]:
    """The volumes that are kept in memory: these Podman mounts, the agent cannot."""
    return {
        name: volume
        for name, volume in work.volumes.items()
        if isinstance(volume, EmptyDir) and volume.medium == "Memory"
    }


def prepare(folder: Folder, work: WorkSpec) -> None:
    """Make every volume that is a directory; what is there already stays as it is."""
    for name, volume in work.volumes.items():
        if isinstance(volume, Files):
            if not is_written(folder.volume(name)):
                write_files(folder.volume(name), volume.files, group=work.fs_group)
        elif isinstance(volume, EmptyDir) and volume.medium != "Memory":
            folder.volume(name).mkdir(parents=True, exist_ok=True)
            _own(folder.volume(name), work.fs_group)
        elif isinstance(volume, FlexVolume):
            _keep(folder.volume(name), folder.kept(volume.options["name"]), work.fs_group)
    if work.dns is not None:
        folder.resolv_conf.write_text(resolv_conf(work.dns))


def _keep(volume: Path, kept: Path, group: int | None) -> None:
    """Have a directory that stays stand for a volume."""
    if not kept.is_dir():
        kept.mkdir(parents=True)
        _own(kept, group)
    if not volume.is_symlink():
        volume.symlink_to(kept)


def _own(directory: Path, group: int | None) -> None:
    """Let everybody write, and what is made there belong to the volume's group."""
    if group is None:
        directory.chmod(0o777)
    else:
        os.chown(directory, -1, group)
        directory.chmod(0o2777)


def hosts_file(work: WorkSpec, address: str) -> str:
    """The pod's /etc/hosts, as the kubelet writes it."""
    names = (f"{work.hostname}.{work.domain}", work.hostname) if work.domain else (work.hostname,)
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
        "\t".join((address, *names)),
    ]
    if work.host_aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias.ip, *alias.hostnames)) for alias in work.host_aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(dns: Dns) -> str:
    """The pod's /etc/resolv.conf."""
    lines = [f"nameserver {server}" for server in dns.nameservers]
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(f"{line}\n" for line in lines)
