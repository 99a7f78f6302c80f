"""What the `podman` backend honours, and the checks of a pod before it is taken on.

Invariant: a path stands here only if a test of this backend shows its effect.
"""

import signal

from overspill.backends.base import Capabilities
from overspill.backends.podman.security import forbidden_sysctls
from overspill.backends.podman.volumes import check_paths, is_kept, memory_volumes
from overspill.errors import Rejected, Unsupported
from overspill.model.work import Container, EmptyDir, Files, TcpSocketAction, WorkSpec

__all__ = ["CAPABILITIES", "check"]

# What the agent resolves by itself is not repeated here.
HTTP_FIELDS = ("httpGet.host", "httpGet.httpHeaders.*", "httpGet.path", "httpGet.port", "httpGet.scheme")
PROBE_FIELDS = (
    "exec.command",
    "failureThreshold",
    "grpc.port",
    "grpc.service",
    *HTTP_FIELDS,
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket.host",
    "tcpSocket.port",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
)
HOOK_FIELDS = ("exec.command", *HTTP_FIELDS, "sleep", "sleep.seconds")
CONTAINER_FIELDS = (
    *(f"lifecycle.postStart.{field}" for field in HOOK_FIELDS),
    *(f"lifecycle.preStop.{field}" for field in HOOK_FIELDS),
    "lifecycle.stopSignal",
    *(f"livenessProbe.{field}" for field in PROBE_FIELDS),
    *(f"readinessProbe.{field}" for field in PROBE_FIELDS),
    "resources.limits.cpu",
    "resources.limits.memory",
    "restartPolicy",
    "restartPolicyRules.*",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.add",
    "securityContext.capabilities.drop",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    *(f"startupProbe.{field}" for field in PROBE_FIELDS),
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts[].recursiveReadOnly",
    "volumeMounts[].subPath",
    "volumeMounts[].subPathExpr",
)
POD_FIELDS = (
    "activeDeadlineSeconds",
    "dnsConfig.*",
    "hostAliases.*",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.sysctls.*",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "volumes[].emptyDir.medium",
    "volumes[].emptyDir.sizeLimit",
    "volumes[].flexVolume.driver",
    "volumes[].flexVolume.options.*",
)
CAPABILITIES = Capabilities(
    pod_fields=frozenset(
        [
            *POD_FIELDS,
            *(f"{kind}[].{field}" for kind in ("containers", "initContainers") for field in CONTAINER_FIELDS),
        ]
    ),
    verbs=frozenset({"logs", "exec", "attach", "port-forward", "metrics", "debug"}),
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
    for name in forbidden_sysctls(work):
        raise Rejected(f'forbidden sysctl: "{name}" not allowlisted')


def _refused(work: WorkSpec) -> list[str]:
    kinds = (("containers", work.containers), ("initContainers", work.init_containers))
    fields = [
        f"spec.{kind}[{index}].{field}"
        for kind, containers in kinds
        for index, container in enumerate(containers)
        for field in _refused_of(container, work)
    ]
    fields += [
        f"spec.volumes[{name}]"
        for name, volume in work.volumes.items()
        if not isinstance(volume, (EmptyDir, Files)) and not is_kept(volume)
    ]
    return fields


def _refused_of(container: Container, work: WorkSpec) -> list[str]:
    in_memory = memory_volumes(work)
    asked: dict[str, object] = {
        "lifecycle.postStart.tcpSocket": isinstance(container.post_start, TcpSocketAction),
        "lifecycle.preStop.tcpSocket": isinstance(container.pre_stop, TcpSocketAction),
        "lifecycle.stopSignal": container.stop_signal and not hasattr(signal.Signals, container.stop_signal),
        "ports[].hostPort": any(port.host_port for port in container.ports),
        "resources.limits[gpu]": container.resources.gpus,
        # Without a group of its own the image's user counts, and with it the image's groups.
        "securityContext.runAsGroup (with supplementalGroupsPolicy Strict)": work.only_these_groups
        and container.security.run_as_group is None,
        "volumeMounts[].mountPropagation": any(mount.propagation != "None" for mount in container.mounts),
        "volumeMounts[].subPath (of a volume in memory)": any(
            mount.sub_path and mount.volume in in_memory for mount in container.mounts
        ),
    }
    return [field for field, wanted in asked.items() if wanted]
