"""What of a pod ECI honours; what is not here is refused by name, also what a later release of overspill learns.

Invariant: a path stands here only if `translate` hands it to ECI, or `refusals.unhonoured` warns of it.
The table of docs/backends/eci.md says the same in words.
"""

from overspill.backends.base import Capabilities

__all__ = ["CAPABILITIES"]

PROBE = (
    "exec.command",
    "failureThreshold",
    "httpGet.path",
    "httpGet.port",
    "httpGet.scheme",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket.port",
    "timeoutSeconds",
)
HOOK = (
    "exec.command",
    "httpGet.host",
    "httpGet.httpHeaders.*",
    "httpGet.path",
    "httpGet.port",
    "httpGet.scheme",
    "sleep",
    "sleep.seconds",
    "tcpSocket.host",
    "tcpSocket.port",
)
# The same for init containers: `refusals` looks what an ordinary one, which ECI has fewer parameters of, may have.
CONTAINER = (
    *(f"lifecycle.postStart.{field}" for field in HOOK),
    *(f"lifecycle.preStop.{field}" for field in HOOK),
    *(f"livenessProbe.{field}" for field in PROBE),
    *(f"readinessProbe.{field}" for field in PROBE),
    "resources.limits.cpu",
    "resources.limits.memory",
    "resources.limits[nvidia.com/gpu]",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.add",
    "securityContext.capabilities.drop",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts[].mountPropagation",
    "volumeMounts[].subPath",
    "volumeMounts[].subPathExpr",
)
POD = (
    "activeDeadlineSeconds",
    "dnsConfig.*",
    "hostAliases.*",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    "securityContext.sysctls.*",
    "shareProcessNamespace",
    "volumes[].emptyDir.medium",
    "volumes[].emptyDir.sizeLimit",
    "volumes[].flexVolume.driver",
    "volumes[].flexVolume.fsType",
    "volumes[].flexVolume.options.*",
    "volumes[].nfs.path",
    "volumes[].nfs.readOnly",
    "volumes[].nfs.server",
    "volumes[].persistentVolumeClaim.claimName",
    "volumes[].persistentVolumeClaim.readOnly",
)
CAPABILITIES = Capabilities(
    pod_fields=frozenset(
        [
            *POD,
            *(f"containers[].{field}" for field in CONTAINER),
            *(f"initContainers[].{field}" for field in (*CONTAINER, "restartPolicy")),
        ]
    ),
    verbs=frozenset({"logs", "exec", "port-forward", "metrics"}),
)
