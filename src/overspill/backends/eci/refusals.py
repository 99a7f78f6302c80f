"""What of a pod ECI cannot do, found before anything is created.

In: a work spec. Out: every field that cannot be honoured, with the reason; every field without which the
pod runs all the same, of which its user is warned. Pure.
Invariant: what passes here is translated whole or warned of; limits are ECI's published ones.
Fields that a work spec has no place for were refused already (`Capabilities.pod_fields`).
"""

import re
from collections.abc import Callable, Iterator

from overspill.backends.eci.annotations import PREFIX, Refusal, parse
from overspill.backends.eci.claims import DISK
from overspill.backends.eci.claims import refusal as claim_refusal
from overspill.backends.eci.network import SYSCTLS_OF_GROUP, SYSCTLS_OF_HOST
from overspill.backends.eci.sidecars import initial, sidecars
from overspill.backends.eci.specs import asked_size, largest, round_up
from overspill.backends.eci.tags import LONGEST_SIDECARS
from overspill.backends.eci.volumes import encoded_size
from overspill.model.work import (
    POD_IP,
    POD_IPS,
    Container,
    CsiVolume,
    Files,
    FlexVolume,
    GrpcAction,
    HttpGetAction,
    Probe,
    TcpSocketAction,
    Volume,
    WorkSpec,
)

__all__ = ["ADDABLE", "refusals", "unhonoured"]

MOST_CONTAINERS = 20
MOST_VOLUMES = 20
MOST_DISKS = 6
MOST_FILES = 16
LARGEST_FILE = 32 * 1024
LARGEST_FILES = 60 * 1024
MOST_CREDENTIALS = 11
RESERVED_PORTS = frozenset({111, 10250, 10255})
ADDABLE = frozenset({"NET_ADMIN"})
# Containers have it unless it is dropped, which ECI cannot do; the restricted Pod Security Standard lets it be added.
HAD_ANYWAY = frozenset({"NET_BIND_SERVICE"})
DRIVERS = frozenset({"alicloud/disk", "alicloud/nas", "alicloud/oss"})
NO_PARAMETER = "ECI's API has no parameter for it"
VARIABLE = re.compile(r"[A-Za-z0-9_]{1,128}")


def refusals(work: WorkSpec) -> list[Refusal]:
    """All that stands against running the pod on ECI; empty when nothing does."""
    found = [*_of_pod(work), *_of_volumes(work), *parse(work.annotations).refusals]
    for index, container in enumerate(work.containers):
        found += _of_container(f"spec.containers[{index}]", container, work, _of_restarts)
    for index, container in enumerate(work.init_containers):
        own = (_of_sidecar,) if container.restart_policy == "Always" else (_of_restarts, _of_init)
        found += _of_container(f"spec.initContainers[{index}]", container, work, *own)
    return found


def _of_container(where: str, container: Container, work: WorkSpec, *own: "Check") -> Iterator[Refusal]:
    for check in (*_CHECKS, *own):
        for refusal in check(container, work):
            yield Refusal(f"{where}.{refusal.field}", refusal.why)


def unhonoured(work: WorkSpec) -> list[str]:
    """What ECI is not told and the pod runs without; paths, each of which may stand for several containers.

    What confines a pod matters on a kernel that it shares with others; on ECI it has a virtual machine of
    its own. A subdomain is in the DNS, but its line in /etc/hosts needs the address before there is one.
    """
    found = ["subdomain"] if work.domain else []
    found += [f"containers[].{path}" for each in work.containers for path in _unhonoured(each)]
    found += [f"initContainers[].{path}" for each in work.init_containers for path in _unhonoured(each)]
    if any(each.security.run_as_non_root and not each.security.run_as_user for each in initial(work)):
        found.append("initContainers[].securityContext.runAsNonRoot")
    if sidecars(work) and work.restart_policy != "Always":
        found.append(
            "initContainers[].restartPolicy"
        )  # of a sidecar that ends by itself: the pod's own counts
    return list(dict.fromkeys(found))


def _unhonoured(container: Container) -> Iterator[str]:
    security = container.security
    if security.drop_capabilities:
        yield "securityContext.capabilities.drop"
    if security.no_new_privileges:
        yield "securityContext.allowPrivilegeEscalation"
    if security.seccomp == "RuntimeDefault":
        yield "securityContext.seccompProfile"


def _of_pod(work: WorkSpec) -> Iterator[Refusal]:
    yield from _of_counts(work)
    for name, _ in work.sysctls:
        if name not in SYSCTLS_OF_GROUP and not name.startswith(SYSCTLS_OF_HOST):
            yield Refusal("spec.securityContext.sysctls", f"ECI cannot set {name}")
    for field, there in (
        ("spec.ephemeralContainers", work.ephemeral_containers),
        ("spec.securityContext.fsGroup", work.fs_group is not None),
        ("spec.securityContext.supplementalGroups", work.supplemental_groups),
        ("spec.securityContext.supplementalGroupsPolicy", work.only_these_groups),
        ("spec.setHostnameAsFQDN", work.hostname_is_fqdn),
    ):
        if there:
            yield Refusal(field, NO_PARAMETER)
    yield from _of_size(work)


def _of_counts(work: WorkSpec) -> Iterator[Refusal]:
    count = len(work.containers) + len(work.init_containers)
    if count > MOST_CONTAINERS:
        yield Refusal(
            "spec.containers", f"ECI runs at most {MOST_CONTAINERS} containers in a pod, not {count}"
        )
    if len(work.volumes) > MOST_VOLUMES:
        yield Refusal("spec.volumes", f"ECI takes at most {MOST_VOLUMES} volumes, not {len(work.volumes)}")
    if len(work.registry_credentials) > MOST_CREDENTIALS:
        yield Refusal("spec.imagePullSecrets", f"ECI takes at most {MOST_CREDENTIALS} registry logins")
    if len("/".join(each.name for each in sidecars(work))) > LONGEST_SIDECARS:
        yield Refusal("spec.initContainers", "the names of the sidecars are too long for the group's tags")


def _of_size(work: WorkSpec) -> Iterator[Refusal]:
    asked = asked_size(work)
    typed = PREFIX + "eci-use-specs" in work.annotations
    if asked and not typed and round_up(asked) is None:
        top = largest()
        why = f"together they ask for {asked.cpu:g} vCPU and {asked.memory:g} GiB; ECI's largest is {top}"
        yield Refusal("spec.containers[].resources", why)
    if any(c.resources.gpus for c in work.containers) and not typed:
        why = f"a GPU needs an instance type: name one by the annotation {PREFIX}eci-use-specs"
        yield Refusal("spec.containers[].resources.limits[nvidia.com/gpu]", why)


def _of_volumes(work: WorkSpec) -> Iterator[Refusal]:
    disks = sum(_is_disk(volume) for volume in work.volumes.values())
    if disks > MOST_DISKS:
        yield Refusal("spec.volumes", f"ECI attaches {MOST_DISKS} disks to a pod, not {disks}")
    for name, volume in work.volumes.items():
        yield from _of_volume(f"spec.volumes[{name}]", volume)
    every = [volume for volume in work.volumes.values() if isinstance(volume, Files)]
    total = sum(encoded_size(file) for volume in every for file in volume.files)
    if total > LARGEST_FILES:
        why = f"the files of a pod are {total} bytes in base64; ECI takes {LARGEST_FILES}"
        yield Refusal("spec.volumes", why)


def _of_volume(field: str, volume: Volume) -> Iterator[Refusal]:
    if isinstance(volume, FlexVolume):
        if volume.driver not in DRIVERS:
            yield Refusal(f"{field}.flexVolume.driver", f"ECI has {', '.join(sorted(DRIVERS))} only")
        if volume.read_only:
            yield Refusal(f"{field}.flexVolume.readOnly", "ECI has this for mounts, not for volumes")
    if isinstance(volume, CsiVolume) and (why := claim_refusal(volume)):
        yield Refusal(f"{field}.persistentVolumeClaim", why)
    if isinstance(volume, Files):
        if len(volume.files) > MOST_FILES:
            yield Refusal(field, f"ECI takes {MOST_FILES} files in a volume, not {len(volume.files)}")
        for file in volume.files:
            if encoded_size(file) > LARGEST_FILE:
                why = f"{len(file.data)} bytes are more than the {LARGEST_FILE // 1024} KiB in base64 of ECI"
                yield Refusal(f"{field}[{file.path}]", why)


def _is_disk(volume: Volume) -> bool:
    driver = volume.driver if isinstance(volume, FlexVolume | CsiVolume) else ""
    return driver in {"alicloud/disk", DISK}


def _of_address(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    """ECI puts the pod's address into whole values of variables, and nowhere else."""
    for var in container.env:
        if "\x00" in var.value and var.value not in (POD_IP, POD_IPS):
            yield Refusal(f"env[{var.name}]", "the pod's address can only be the whole value of a variable")
    for field, texts in (("command", container.command), ("args", container.args)):
        if any("\x00" in text for text in texts):
            yield Refusal(field, "the pod's address is not known when the command is given to ECI")


def _of_env(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    for var in container.env:
        if not VARIABLE.fullmatch(var.name):
            yield Refusal(f"env[{var.name}]", "ECI takes letters, digits and '_' in the name of a variable")


def _of_ports(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    for index, port in enumerate(container.ports):
        if port.host_port:
            yield Refusal(f"ports[{index}].hostPort", "there is no host whose port could be used")
        if port.protocol == "SCTP":
            yield Refusal(f"ports[{index}].protocol", "ECI has TCP and UDP only")
        if port.container_port in RESERVED_PORTS:
            yield Refusal(f"ports[{index}].containerPort", f"ECI keeps {port.container_port} for itself")


def _of_security(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    more = sorted(set(container.security.add_capabilities) - ADDABLE - HAD_ANYWAY)
    if container.security.seccomp == "Unconfined":
        yield Refusal("securityContext.seccompProfile.type", "ECI cannot lift its confinement")
    if more:
        yield Refusal("securityContext.capabilities.add", f"ECI grants NET_ADMIN only, not {', '.join(more)}")


def _of_handlers(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    for name, probe in (("livenessProbe", container.liveness), ("readinessProbe", container.readiness)):
        if probe is not None:
            yield from _of_probe(name, probe)
    for field, there in (
        ("startupProbe", container.startup),
        ("lifecycle.stopSignal", container.stop_signal),
    ):
        if there:
            yield Refusal(field, NO_PARAMETER)


def _of_restarts(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    for field, there in (
        ("restartPolicy", container.restart_policy),
        ("restartPolicyRules", container.restart_rules),
    ):
        if there:
            yield Refusal(field, NO_PARAMETER)


def _of_probe(name: str, probe: Probe) -> Iterator[Refusal]:
    handler = probe.handler
    if isinstance(handler, GrpcAction):
        yield Refusal(f"{name}.grpc", "ECI's probes do not speak gRPC")
    if probe.termination_grace_period_seconds is not None:
        yield Refusal(f"{name}.terminationGracePeriodSeconds", "ECI knows the pod's only")
    if isinstance(handler, HttpGetAction) and handler.headers:
        yield Refusal(f"{name}.httpGet.httpHeaders", "ECI's probes send no headers of their own")
    if isinstance(handler, HttpGetAction) and handler.host:
        yield Refusal(f"{name}.httpGet.host", "ECI's probes ask the pod itself only")
    if isinstance(handler, TcpSocketAction) and handler.host:
        yield Refusal(f"{name}.tcpSocket.host", "ECI's probes ask the pod itself only")


def _of_init(container: Container, _: WorkSpec) -> Iterator[Refusal]:
    security = container.security
    for field, there in (
        ("stdin", container.stdin or container.stdin_once),
        ("tty", container.tty),
        ("securityContext.runAsGroup", security.run_as_group is not None),
        ("livenessProbe", container.liveness),
        ("readinessProbe", container.readiness),
        ("lifecycle", container.post_start or container.pre_stop),
    ):
        if there:
            yield Refusal(field, "ECI has this for containers, but not for init containers")


def _of_sidecar(container: Container, work: WorkSpec) -> Iterator[Refusal]:
    later = work.init_containers[work.init_containers.index(container) + 1 :]
    if before := [each.name for each in later if each.restart_policy != "Always"]:
        why = f"on ECI init containers run before sidecars, {before[0]} too: put sidecars after all of them"
        yield Refusal("restartPolicy", why)


Check = Callable[[Container, WorkSpec], Iterator[Refusal]]
_CHECKS: tuple[Check, ...] = (
    _of_address,
    _of_env,
    _of_ports,
    _of_security,
    _of_handlers,
)
