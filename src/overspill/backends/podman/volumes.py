"""A pod's volumes and the two files of its own below /etc.

In: volumes as resolved by the agent. Out: directories of the pod's folder, as
the kubelet lays them out. Invariant: a reader in a container sees a volume's
files all old or all new, never mixed (the `..data` link is swapped by a rename).
Sources: k8s.io/kubernetes pkg/volume/util/atomic_writer.go, pkg/kubelet/kubelet_pods.go.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from overspill.backends.podman.folder import Folder
from overspill.errors import Rejected
from overspill.model.work import Dns, EmptyDir, File, Files, Volume, WorkSpec

__all__ = [
    "check_paths",
    "disk_usage",
    "hosts_file",
    "memory_volumes",
    "prepare",
    "resolv_conf",
    "write_files",
]

DATA_LINK = "..data"


def check_paths(volumes: Mapping[str, Volume]) -> None:
    """Refuse a volume whose files would land outside of it.

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
            if not (folder.volume(name) / DATA_LINK).exists():
                write_files(folder.volume(name), volume.files)
        elif isinstance(volume, EmptyDir) and volume.medium != "Memory":
            folder.volume(name).mkdir(parents=True, exist_ok=True)
            folder.volume(name).chmod(0o777)
    if work.dns is not None:
        folder.resolv_conf.write_text(resolv_conf(work.dns))


def write_files(directory: Path, files: Iterable[File]) -> None:
    """Put files in place of what the directory holds, in one instant."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    link = directory / DATA_LINK
    old = link.readlink() if link.is_symlink() else None
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    wanted = {_write_file(fresh, file) for file in files}
    draft = directory / f"{DATA_LINK}_tmp"
    draft.unlink(missing_ok=True)
    draft.symlink_to(fresh.name)
    draft.rename(link)
    _link_names(directory, wanted)
    if old:
        shutil.rmtree(directory / old, ignore_errors=True)


def _write_file(directory: Path, file: File) -> str:
    """Write one file; returns the first part of its path."""
    target = directory / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.data)
    target.chmod(file.mode)
    return PurePosixPath(file.path).parts[0]


def _link_names(directory: Path, wanted: set[str]) -> None:
    """Let the visible names lead into the data directory, and no others be there."""
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"{DATA_LINK}/{name}")


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


def disk_usage(directory: Path) -> int:
    """Bytes allocated below a directory; what vanishes meanwhile counts as nothing."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - hot loop
            except FileNotFoundError:
                continue
    return total
