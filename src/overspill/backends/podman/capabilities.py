"""What the `podman` backend honours, and the checks of a pod before it is taken on.

Invariant: a path stands here only if a test of this backend shows its effect.
"""

from overspill.backends.base import Capabilities
from overspill.backends.podman.volumes import check_paths
from overspill.errors import Rejected, Unsupported
from overspill.model.work import Container, EmptyDir, Files, WorkSpec

__all__ = ["CAPABILITIES", "check"]

# What the agent resolves by itself is not repeated here.
CONTAINER_FIELDS = (
    "resources.limits.cpu",
    "resources.limits.memory",
    "securityContext.runAsGroup",
    "securityContext.runAsUser",
    "stdin",
    "stdinOnce",
    "tty",
)
POD_FIELDS = (
    "activeDeadlineSeconds",
    "dnsConfig.*",
    "hostAliases.*",
    "securityContext.runAsGroup",
    "securityContext.runAsUser",
    "volumes[].emptyDir.medium",
    "volumes[].emptyDir.sizeLimit",
)
CAPABILITIES = Capabilities(
    pod_fields=frozenset(
        [
            *POD_FIELDS,
            *(f"{kind}[].{field}" for kind in ("containers", "initContainers") for field in CONTAINER_FIELDS),
        ]
    ),
    verbs=frozenset({"logs", "exec", "attach", "port-forward", "metrics"}),
)


def check(work: WorkSpec) -> None:
    """Refuse what cannot be honoured.

    Raises:
        Unsupported: names the fields.
        Rejected: a value is wrong.
    """
    if fields := _refused(work):
        raise Unsupported(f"the podman backend cannot honour {', '.join(fields)}", fields=fields)
    for container in (*work.init_containers, *work.containers):
        for mount in container.mounts:
            if mount.volume not in work.volumes:
                raise Rejected(f"container {container.name!r} mounts {mount.volume!r}, which is no volume")
    check_paths(work.volumes)


def _refused(work: WorkSpec) -> list[str]:
    kinds = (("containers", work.containers), ("initContainers", work.init_containers))
    fields = [
        f"spec.{kind}[{index}].{field}"
        for kind, containers in kinds
        for index, container in enumerate(containers)
        for field in _refused_of(container)
    ]
    fields += [
        f"spec.volumes[{name}]"
        for name, volume in work.volumes.items()
        if not isinstance(volume, (EmptyDir, Files))
    ]
    if work.share_process_namespace:
        fields.append("spec.shareProcessNamespace")
    if work.sysctls:
        fields.append("spec.securityContext.sysctls")
    return fields


def _refused_of(container: Container) -> list[str]:
    security = container.security
    asked: dict[str, object] = {
        "livenessProbe": container.liveness,
        "readinessProbe": container.readiness,
        "lifecycle.postStart": container.post_start,
        "lifecycle.preStop": container.pre_stop,
        "ports[].hostPort": any(port.host_port for port in container.ports),
        "resources.limits[gpu]": container.resources.gpus,
        "securityContext.capabilities.add": security.add_capabilities,
        "securityContext.readOnlyRootFilesystem": security.read_only_root_filesystem,
        "securityContext.runAsNonRoot": security.run_as_non_root,
        "terminationMessagePath": container.termination_message_path != "/dev/termination-log",
        "terminationMessagePolicy": container.termination_message_policy != "File",
        "volumeMounts[].mountPropagation": any(mount.propagation != "None" for mount in container.mounts),
        "volumeMounts[].subPath": any(mount.sub_path for mount in container.mounts),
    }
    return [field for field, wanted in asked.items() if wanted]
