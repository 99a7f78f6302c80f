"""Is field X of a pod's spec honoured? What is not in this file is refused by name.

In: a spec as a plain dict, and the paths that a backend honours. Out: the paths in it that nobody
would act on. Invariant: a field that this file has never heard of is reported, so nothing a user
asks for is dropped in silence, not even a field of a later Kubernetes.

Paths are written below `spec`: `containers[].ports[].name`, where `[]` is any item of a list and a
trailing `.*` takes everything below; a name that has dots itself stands in brackets, as in
`resources.limits[nvidia.com/gpu]`. To honour a new field, add its path to the group that acts on it:

- `SCHEDULING`: has had its effect before a pod comes to its node, or is no concern of nodes.
- `AGENT`: resolved by `agent/`, or part of what every backend does by contract.
- `BACKEND`: handed on in the `WorkSpec`; a backend that honours it lists it in its `Capabilities`.
- `DEFAULTS`: refused, but for the value that means "not asked for", which the API server often fills in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from msgspec import Struct

__all__ = ["AGENT", "BACKEND", "DEFAULTS", "SCHEDULING", "unsupported_fields"]

SCHEDULING = (
    "affinity.*",
    "nodeName",
    "nodeSelector.*",
    "os.*",
    "overhead.*",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "schedulerName",
    "schedulingGates.*",
    "schedulingGroup.*",
    "tolerations.*",
    "topologySpreadConstraints.*",
)


def _of_containers(*paths: str) -> tuple[str, ...]:
    """The same paths below `containers[]` and `initContainers[]`."""
    return tuple(f"{where}[].{path}" for where in ("containers", "initContainers") for path in paths)


AGENT = (
    "automountServiceAccountToken",  # the API server's admission acts on it
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers.*",  # looked at when they are added: they must not hold up a pod that runs anew
    "hostname",
    "imagePullSecrets.*",
    "readinessGates.*",
    "restartPolicy",
    "serviceAccount",  # deprecated twin of serviceAccountName
    "serviceAccountName",
    "subdomain",
    "terminationGracePeriodSeconds",
    *_of_containers(
        "args",
        "command",
        "env[].name",
        "env[].value",
        "env[].valueFrom.configMapKeyRef.*",
        "env[].valueFrom.fieldRef.*",
        "env[].valueFrom.resourceFieldRef.*",
        "env[].valueFrom.secretKeyRef.*",
        "envFrom[].configMapRef.*",
        "envFrom[].prefix",
        "envFrom[].secretRef.*",
        "image",
        "imagePullPolicy",
        "name",
        "ports[].containerPort",
        "ports[].name",
        "ports[].protocol",
        "resizePolicy.*",  # says how a resize would go; asks for nothing by itself
        "resources.requests.cpu",
        "resources.requests.ephemeral-storage",
        "resources.requests.memory",
        "resources.requests[nvidia.com/gpu]",
        "volumeMounts[].mountPath",
        "volumeMounts[].name",
        "volumeMounts[].readOnly",
        "workingDir",
    ),
    "volumes[].name",
    "volumes[].configMap.defaultMode",
    "volumes[].configMap.items[].key",
    "volumes[].configMap.items[].mode",
    "volumes[].configMap.items[].path",
    "volumes[].configMap.name",
    "volumes[].configMap.optional",
    "volumes[].downwardAPI.defaultMode",
    "volumes[].downwardAPI.items[].fieldRef.*",
    "volumes[].downwardAPI.items[].mode",
    "volumes[].downwardAPI.items[].path",
    "volumes[].downwardAPI.items[].resourceFieldRef.*",
    "volumes[].emptyDir",
    "volumes[].projected.defaultMode",
    "volumes[].projected.sources[].configMap.items[].key",
    "volumes[].projected.sources[].configMap.items[].mode",
    "volumes[].projected.sources[].configMap.items[].path",
    "volumes[].projected.sources[].configMap.name",
    "volumes[].projected.sources[].configMap.optional",
    "volumes[].projected.sources[].downwardAPI.items[].fieldRef.*",
    "volumes[].projected.sources[].downwardAPI.items[].mode",
    "volumes[].projected.sources[].downwardAPI.items[].path",
    "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.*",
    "volumes[].projected.sources[].secret.items[].key",
    "volumes[].projected.sources[].secret.items[].mode",
    "volumes[].projected.sources[].secret.items[].path",
    "volumes[].projected.sources[].secret.name",
    "volumes[].projected.sources[].secret.optional",
    "volumes[].projected.sources[].serviceAccountToken.audience",
    "volumes[].projected.sources[].serviceAccountToken.expirationSeconds",
    "volumes[].projected.sources[].serviceAccountToken.path",
    "volumes[].secret.defaultMode",
    "volumes[].secret.items[].key",
    "volumes[].secret.items[].mode",
    "volumes[].secret.items[].path",
    "volumes[].secret.optional",
    "volumes[].secret.secretName",
)

_HANDLER = (
    "exec.command",
    "httpGet.host",
    "httpGet.httpHeaders.*",
    "httpGet.path",
    "httpGet.port",
    "httpGet.scheme",
    "tcpSocket.host",
    "tcpSocket.port",
)
_PROBE = (
    *_HANDLER,
    "failureThreshold",
    "grpc.port",
    "grpc.service",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
)
_HOOK = (*_HANDLER, "sleep", "sleep.seconds")
BACKEND = frozenset(
    (
        "activeDeadlineSeconds",
        "dnsConfig.*",
        "hostAliases.*",
        "securityContext.fsGroup",
        "securityContext.fsGroupChangePolicy",  # which of a volume's files change hands: new volumes have none
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
        "volumes[].flexVolume.fsType",
        "volumes[].flexVolume.options.*",
        "volumes[].flexVolume.readOnly",
        "volumes[].nfs.path",
        "volumes[].nfs.readOnly",
        "volumes[].nfs.server",
        "volumes[].persistentVolumeClaim.claimName",
        "volumes[].persistentVolumeClaim.readOnly",
        *_of_containers(
            *(f"lifecycle.postStart.{path}" for path in _HOOK),
            *(f"lifecycle.preStop.{path}" for path in _HOOK),
            "lifecycle.stopSignal",
            *(f"livenessProbe.{path}" for path in _PROBE),
            "ports[].hostPort",
            *(f"readinessProbe.{path}" for path in _PROBE),
            "resources.limits.cpu",
            "resources.limits.memory",
            "resources.limits[nvidia.com/gpu]",
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
            "stdin",
            "stdinOnce",
            *(f"startupProbe.{path}" for path in _PROBE),
            "terminationMessagePath",
            "terminationMessagePolicy",
            "tty",
            "volumeMounts[].mountPropagation",
            "volumeMounts[].recursiveReadOnly",  # of a volume with nothing mounted below it, any read-only mount is
            "volumeMounts[].subPath",
            "volumeMounts[].subPathExpr",
        ),
    )
)

DEFAULTS: dict[str, Any] = {
    "hostIPC": False,
    "hostNetwork": False,
    "hostPID": False,
    "hostUsers": True,
    "setHostnameAsFQDN": False,
    "shareProcessNamespace": False,
    "securityContext.fsGroupChangePolicy": "Always",
    "securityContext.runAsNonRoot": False,
    "securityContext.seLinuxChangePolicy": "MountOption",
    "securityContext.supplementalGroupsPolicy": "Merge",
    **dict.fromkeys(_of_containers("securityContext.allowPrivilegeEscalation"), True),
    **dict.fromkeys(_of_containers("securityContext.privileged"), False),
    **dict.fromkeys(_of_containers("securityContext.procMount"), "Default"),
    **dict.fromkeys(_of_containers("securityContext.readOnlyRootFilesystem"), False),
    **dict.fromkeys(_of_containers("securityContext.runAsNonRoot"), False),
    **dict.fromkeys(_of_containers("terminationMessagePath"), "/dev/termination-log"),
    **dict.fromkeys(_of_containers("terminationMessagePolicy"), "File"),
    **dict.fromkeys(_of_containers("volumeMounts[].mountPropagation"), "None"),
    **dict.fromkeys(_of_containers("volumeMounts[].recursiveReadOnly"), "Disabled"),
}


def unsupported_fields(spec: Mapping[str, Any], pod_fields: frozenset[str]) -> list[str]:
    """Paths in a pod's spec that neither the agent nor a backend honouring `pod_fields` acts on.

    They are written as kubectl's users know them, and no deeper than it takes: where nothing of a probe
    is honoured, `spec.containers[0].livenessProbe`. Empty values (`{}`, `[]`, `""`, null) ask for nothing.
    """
    return ["spec" + path for path in _offending(spec, _compiled(pod_fields).fields)]


# A name in a path; one that has dots itself stands in brackets.
NAME = re.compile(r"(?<=\[)[^\]]+(?=\])|[^.\[\]]+")


class _Rule(Struct):
    """What is known of one field: one node of the trie.

    Attributes:
        everything: it is honoured whatever it holds.
        leaf: it is honoured as a plain value.
        default: the value that asks for nothing, where it is not honoured.
        fields: rules of the fields below; of each item, if it is a list.
    """

    everything: bool = False
    leaf: bool = False
    default: Any = None
    fields: dict[str, "_Rule"] = {}


@lru_cache(maxsize=8)
def _compiled(pod_fields: frozenset[str]) -> _Rule:
    root = _Rule()
    honoured = (path for path in BACKEND if any(_covers(listed, path) for listed in pod_fields))
    for path in chain(SCHEDULING, AGENT, honoured):
        rule = _descend(root, path.removesuffix(".*"))
        rule.everything |= path.endswith(".*")
        rule.leaf = True
    for path, default in DEFAULTS.items():
        _descend(root, path).default = default
    return root


def _covers(listed: str, path: str) -> bool:
    """Whether a backend's entry takes in a path; one that the agent does not hand on helps nobody."""
    above = listed.removesuffix("*")
    return listed == path or (above != listed and path.startswith(above))


def _descend(rule: _Rule, path: str) -> _Rule:
    for name in NAME.findall(path):
        rule = rule.fields.setdefault(name, _Rule())
    return rule


def _offending(value: Mapping[str, Any], fields: Mapping[str, _Rule]) -> Sequence[str]:
    """Paths relative to `value`; they are put together only where there is something to report."""
    found: list[str] = []
    for name, item in value.items():
        rule = fields.get(name)
        if rule is None:
            if item not in (None, "", [], {}):
                found.append(_step(name))
        elif not rule.everything:
            found += _below(name, item, rule)
    return found


def _below(name: str, item: Any, rule: _Rule) -> Iterable[str]:
    if type(item) is dict:
        return [_step(name) + path for path in _offending(item, rule.fields)]
    if type(item) is list and item and type(item[0]) is dict:
        return [
            f"{_step(name)}[{index}]{path}"
            for index, one in enumerate(item)
            if type(one) is dict  # a list of the API holds one kind of thing; be sure all the same
            for path in _offending(one, rule.fields)
        ]
    return () if rule.leaf or item == rule.default or item in (None, "", []) else (_step(name),)


def _step(name: str) -> str:
    return f"[{name}]" if "." in name or "/" in name else f".{name}"
