"""The Node object of a virtual node, and what keeps it as it should be.

In: facts from the agent's settings, and its health. Out: the object to create,
or the smallest patches that bring an existing one back. Invariant: pure; of an
existing Node only the labels, annotations and the taint named here are touched.
Source: https://kubernetes.io/docs/reference/node/node-status/.
"""

import platform
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from overspill import __version__, names
from overspill.model.affinity import Taint
from overspill.model.podstatus import timestamp

__all__ = ["Health", "NodeObject", "NodeProfile", "NodeTaint", "new_node", "repair_patch", "status_patch"]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NodeProfile(Struct, frozen=True, kw_only=True):
    """What a virtual node shall be.

    Attributes:
        capacity: quantities by resource name: cpu, memory, ephemeral-storage, pods.
        kubernetes_version: the apiserver's, such as `v1.37.0`; a node must not claim a newer one.
        kubelet_port: where this node's kubelet API is served; 0 while it is not.
        taint: value of the provider taint, or "" for no taint.
        features: what the scheduler and the apiserver may rely on (KEP-5328).
    """

    name: str
    ip: str
    backend: str
    kubernetes_version: str
    capacity: dict[str, str]
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    taint: str = ""
    kubelet_port: int = 0
    features: tuple[str, ...] = ()


class Health(Struct, frozen=True):
    """Whether the node can run pods now, and why not. Times are seconds since 1970.

    Attributes:
        since: when `ready` last changed.
        started: when the agent started.
        groups: whether there are container groups, and since when.
    """

    ready: bool
    since: float
    started: float
    message: str = ""
    groups: bool = False
    groups_since: float = 0.0


class NodeTaint(Taint, frozen=True, rename="camel", omit_defaults=True):
    """A taint of an existing Node, kept whole when it is written back."""

    time_added: str | None = None


class NodeMeta(Struct, frozen=True, rename="camel"):
    """What is read of a Node's metadata."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class NodeSpec(Struct, frozen=True, rename="camel"):
    """What is read of a Node's spec."""

    taints: tuple[NodeTaint, ...] = ()
    unschedulable: bool = False
    provider_id: str = msgspec.field(name="providerID", default="")


class NodeCondition(Struct, frozen=True, rename="camel"):
    """What is read of one of a Node's conditions."""

    type: str
    status: str = ""
    message: str = ""


class NodeStatus(Struct, frozen=True):
    """What is read of a Node's status."""

    conditions: tuple[NodeCondition, ...] = ()


class NodeObject(Struct, frozen=True):
    """A Node as far as it is read."""

    metadata: NodeMeta = NodeMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def condition(self, kind: str) -> NodeCondition | None:
        """Its condition of this type, if it has one."""
        return next((each for each in self.status.conditions if each.type == kind), None)


def owned_labels(profile: NodeProfile) -> dict[str, str]:
    """The labels that this node carries whatever others do to it; a user's own win over the defaults."""
    return {
        names.NODE_TYPE_LABEL: names.NODE_TYPE,
        names.NODE_ROLE_LABEL: names.NODE_ROLE,
        names.HOSTNAME_LABEL: profile.name,
        names.OS_LABEL: "linux",
        names.ARCH_LABEL: architecture(),
        names.EXCLUDE_BALANCERS_LABEL: "true",
        **profile.labels,
    }


def architecture() -> str:
    """This machine's architecture in Kubernetes' words."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def new_node(
    profile: NodeProfile, *, cordoned: bool = False, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The Node to create, with further labels; `cordoned` as by ourselves, for one that may have to go at once."""
    marks = {names.CORDONED_ANNOTATION: names.CORDONED_BY} if cordoned else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": profile.name,
            "labels": {**(labels or {}), **owned_labels(profile)},
            "annotations": {**profile.annotations, **marks},
        },
        "spec": {
            "providerID": _provider_id(profile),
            "taints": _owned_taints(profile),
            **({"unschedulable": True} if cordoned else {}),
        },
    }


def repair_patch(profile: NodeProfile, found: NodeObject) -> dict[str, Any] | None:
    """A merge patch for drifted labels, annotations, taint and providerID, or None when all is as it should be.

    It carries the resourceVersion: taints are one list, which others edit as well.
    """
    labels = _drifted(owned_labels(profile), found.metadata.labels)
    annotations = _drifted(profile.annotations, found.metadata.annotations)
    spec: dict[str, Any] = {}
    taints = _repaired_taints(profile, found.spec.taints)
    if taints != list(found.spec.taints):
        spec["taints"] = taints
    if not found.spec.provider_id:
        spec["providerID"] = _provider_id(profile)
    if not labels and not annotations and not spec:
        return None
    patch: dict[str, Any] = {"metadata": {"resourceVersion": found.metadata.resource_version}}
    if labels:
        patch["metadata"]["labels"] = labels
    if annotations:
        patch["metadata"]["annotations"] = annotations
    if spec:
        patch["spec"] = spec
    return patch


def _drifted(wanted: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in wanted.items() if found.get(key) != value}


def status_patch(profile: NodeProfile, health: Health, *, groups: int, now: float) -> dict[str, Any]:
    """A strategic merge patch of the Node's status; it has `groups` container groups."""
    return {
        "status": {
            "capacity": profile.capacity,
            "allocatable": profile.capacity,
            "addresses": [
                {"type": "InternalIP", "address": profile.ip},
                {"type": "Hostname", "address": profile.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": profile.kubelet_port}},
            "nodeInfo": _node_info(profile),
            "declaredFeatures": profile.features,
            "conditions": [*_conditions(health, now=now), _groups_condition(health, groups, now=now)],
        }
    }


def _conditions(health: Health, *, now: float) -> list[dict[str, str]]:
    ready = _condition(
        "Ready",
        on=health.ready,
        reason="AgentReady" if health.ready else "AgentNotReady",
        message=health.message or "virtual node is ready",
        since=health.since,
        now=now,
    )
    pressures = [
        _condition(
            kind, on=False, reason=f"AgentHasNo{kind}", message="virtual node", since=health.started, now=now
        )
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
    ]
    network = _condition(
        "NetworkUnavailable",
        on=False,
        reason="NoRouteNeeded",
        message="virtual node",
        since=health.started,
        now=now,
    )
    return [ready, *pressures, network]


def _groups_condition(health: Health, groups: int, *, now: float) -> dict[str, str]:
    """Told for whoever deletes the Node: an admission policy reads it."""
    return _condition(
        names.CONTAINER_GROUPS,
        on=health.groups,
        reason="Running" if health.groups else "None",
        message=f"{groups} at the backend" if health.groups else "none at the backend",
        since=health.groups_since,
        now=now,
    )


def _condition(kind: str, *, on: bool, reason: str, message: str, since: float, now: float) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True" if on else "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": timestamp(now),
        "lastTransitionTime": timestamp(since),
    }


def _node_info(profile: NodeProfile) -> dict[str, str]:
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": platform.release(),
        "osImage": f"overspill {__version__} ({profile.backend})",
        "containerRuntimeVersion": f"{profile.backend}://{__version__}",
        "kubeletVersion": f"{profile.kubernetes_version}-overspill.{__version__}",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": architecture(),
    }


def _provider_id(profile: NodeProfile) -> str:
    return f"{profile.backend}://{profile.name}"


def _owned_taints(profile: NodeProfile) -> list[NodeTaint]:
    return [NodeTaint(names.PROVIDER_TAINT, "NoSchedule", profile.taint)] if profile.taint else []


def _repaired_taints(profile: NodeProfile, found: tuple[NodeTaint, ...]) -> list[NodeTaint]:
    others = [taint for taint in found if taint.key != names.PROVIDER_TAINT]
    mine = [taint for taint in found if taint.key == names.PROVIDER_TAINT]
    wanted = _owned_taints(profile)
    return list(found) if mine == wanted else [*others, *wanted]
