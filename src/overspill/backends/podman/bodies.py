"""The bodies of Podman's create requests.

In: a `WorkSpec` and the pod's folder. Out: JSON-ready dicts. Pure. Invariant:
nothing of a pod's spec that the backend claims to honour is left out here.
Source: specgen.SpecGenerator and specgen.PodSpecGenerator of Podman 4.3.
"""

import os
import signal
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from overspill.backends.podman import tags
from overspill.backends.podman.folder import Folder
from overspill.backends.podman.messages import message_file
from overspill.backends.podman.plan import CreateRun
from overspill.backends.podman.security import security_settings
from overspill.backends.podman.seen import PulledImage, Sandbox
from overspill.backends.podman.volumes import memory_volumes
from overspill.model.work import Container, EmptyDir, Files, Mount, Resources, WorkSpec

__all__ = [
    "container_body",
    "keeper_body",
    "pod_body",
    "resource_limits",
    "updated_limits",
    "volume_body",
    "without_place",
]

PAGE = os.sysconf("SC_PAGE_SIZE")
NETWORK_ANNOTATION = "podman.overspill.dev/network"
ADDRESS_ANNOTATION = "podman.overspill.dev/ip"
CPU_PERIOD = 100_000  # microseconds
UNLIMITED = -1
MIN_SHARES, MAX_SHARES = 2, 262_144  # the kernel's; runc fails above
LOG_BYTES = 50 << 20  # as much as the kubelet keeps of one container by default: 5 files of 10 MiB


def pod_body(work: WorkSpec, network: str) -> dict[str, Any]:
    """The pod: the namespaces that its containers share, and its address."""
    return {
        "name": tags.pod_name(work.identity),
        "labels": tags.labels(work.identity),
        "hostname": f"{work.hostname}.{work.domain}" if work.hostname_is_fqdn else work.hostname,
        "netns": {"nsmode": "bridge"},
        "Networks": _place(work, network),
        "shared_namespaces": ["net", "ipc", "uts", *(["pid"] if work.share_process_namespace else [])],
        "sysctl": {name.replace("/", "."): value for name, value in work.sysctls},
        "no_manage_hosts": True,
        # Without a resolv.conf of its own a pod gets that of Podman's host: dnsPolicy Default.
        "no_manage_resolv_conf": work.dns is not None,
        "exit_policy": "continue",
        # A cgroup of the pod's own could not be removed while a conmon of an exec lingers in it.
        "share_parent": False,
    }


def without_place(work: WorkSpec) -> WorkSpec:
    """The work without a say in which network it is put."""
    kept = {k: v for k, v in work.annotations.items() if k not in {NETWORK_ANNOTATION, ADDRESS_ANNOTATION}}
    return structs.replace(work, annotations=kept)


def _place(work: WorkSpec, network: str) -> dict[str, Any]:
    """The network and, where whoever asks manages addresses himself, the address in it."""
    named = work.annotations.get(NETWORK_ANNOTATION, network)
    address = work.annotations.get(ADDRESS_ANNOTATION)
    return {named: {"static_ips": [address]} if address else {}}


def volume_body(work: WorkSpec, name: str, volume: EmptyDir) -> dict[str, Any]:
    """A volume kept in memory; without a limit the kernel allows half of the host's.

    The limit is given in pages: Podman 4 takes an option `size` for a disk quota, and fails.
    """
    options = ["mode=0777"] if work.fs_group is None else ["mode=2777", f"gid={work.fs_group}"]
    if volume.size_limit is not None:
        options.append(f"nr_blocks={-(-volume.size_limit // PAGE)}")
    return {
        "Name": tags.volume_name(work.identity, name),
        "Labels": tags.labels(work.identity),
        "Options": {"type": "tmpfs", "device": "tmpfs", "o": ",".join(options)},
    }


def keeper_body(work: WorkSpec, sandbox: Sandbox, image: str) -> dict[str, Any]:
    """A container that does nothing but keep memory-backed volumes mounted from one run to the next."""
    return {
        "name": tags.keeper_name(work.identity),
        "pod": sandbox.id,
        "labels": tags.labels(work.identity),
        "image": image,
        "log_configuration": {"driver": "none"},
        "volumes": [
            {"Name": tags.volume_name(work.identity, name), "Dest": f"/volumes/{name}"}
            for name in memory_volumes(work)
        ],
    }


def container_body(
    work: WorkSpec,
    step: CreateRun,
    *,
    sandbox: Sandbox,
    folder: Folder,
    image: PulledImage,
    sources: Mapping[Mount, str],
    target: str = "",
) -> dict[str, Any]:
    """One run of a container.

    `work` has the pod's address put in already, `sources` are on the host, `target` is the id of the
    container whose processes this one sees.
    """
    container = step.container
    body: dict[str, Any] = {
        "name": tags.container_name(work.identity, container=container.name, run=step.number),
        "pod": sandbox.id,
        "labels": tags.container_labels(
            work.identity,
            container,
            run=step.number,
            backoff=step.backoff,
            address=sandbox.ips[0] if sandbox.ips else "",
            image_id=image.image_id,
        ),
        "image": image.reference,
        "env": {"HOSTNAME": work.hostname} | {var.name: var.value for var in container.env},
        "httpproxy": False,
        "terminal": container.tty,
        "stdin": container.stdin,
        "resource_limits": resource_limits(container.resources),
        "log_configuration": {
            "driver": "k8s-file",
            "path": str(folder.log(container.name, step.number)),
            "size": LOG_BYTES,
        },
        **_command(container),
        **_mounts(work, step, folder, sources),
        **security_settings(work, container, image),
    }
    if container.stop_signal:
        body["stop_signal"] = int(signal.Signals[container.stop_signal])
    if target and not work.share_process_namespace:
        body["pidns"] = {"nsmode": "container", "value": target}
    return body


def resource_limits(resources: Resources) -> dict[str, Any]:
    """Requests and limits as cgroup settings, in the kubelet's arithmetic; no swap beyond the limit."""
    shares = int((resources.cpu_request or 0) * 1024)
    cpu: dict[str, Any] = {"shares": min(max(shares, MIN_SHARES), MAX_SHARES)}
    if resources.cpu_limit:
        cpu |= {"period": CPU_PERIOD, "quota": max(1000, int(resources.cpu_limit * CPU_PERIOD))}
    if not resources.memory_limit:
        return {"cpu": cpu}
    return {"cpu": cpu, "memory": {"limit": resources.memory_limit, "swap": resources.memory_limit}}


def updated_limits(resources: Resources) -> dict[str, Any]:
    """The settings for a container that runs; they also take away a limit that was there before."""
    limits = resource_limits(resources)
    limits["cpu"] = {"period": CPU_PERIOD, "quota": UNLIMITED} | limits["cpu"]
    return {"memory": {"limit": UNLIMITED, "swap": UNLIMITED}} | limits


def _command(container: Container) -> dict[str, Any]:
    """An own command replaces entrypoint and arguments of the image; own arguments only the latter."""
    body: dict[str, Any] = {}
    if container.command:
        body["entrypoint"] = list(container.command)
    if container.args:
        body["command"] = list(container.args)
    if container.working_dir:
        body |= {"work_dir": container.working_dir, "create_working_dir": True}
    return body


def _mounts(work: WorkSpec, step: CreateRun, folder: Folder, sources: Mapping[Mount, str]) -> dict[str, Any]:
    container = step.container
    taken = {mount.path.rstrip("/") for mount in container.mounts}
    binds = [
        _bind(sources[mount], mount.path, read_only=_read_only(work, mount))
        for mount in container.mounts
        if mount.volume not in memory_volumes(work)
    ]
    if container.termination_message_path not in taken:
        words = message_file(folder, container.name, step.number)
        binds.append(_bind(str(words), container.termination_message_path, read_only=False))
    if "/etc/hosts" not in taken:
        binds.append(_bind(str(folder.hosts), "/etc/hosts", read_only=False))
    if work.dns is not None and "/etc/resolv.conf" not in taken:
        binds.append(_bind(str(folder.resolv_conf), "/etc/resolv.conf", read_only=False))
    named = [
        {
            "Name": tags.volume_name(work.identity, mount.volume),
            "Dest": mount.path,
            "Options": ["ro" if mount.read_only else "rw"],
        }
        for mount in container.mounts
        if mount.volume in memory_volumes(work)
    ]
    return {"mounts": binds, "volumes": named}


def _read_only(work: WorkSpec, mount: Mount) -> bool:
    """Volumes of files are never writable: what a container wrote there would vanish at the next refresh."""
    return mount.read_only or isinstance(work.volumes[mount.volume], Files)


def _bind(source: str, destination: str, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"type": "bind", "source": source, "destination": destination, "options": options}
