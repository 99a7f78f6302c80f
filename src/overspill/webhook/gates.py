"""Which pods wait for their pool, and which Deployments' templates say so.

In: a pod or a Deployment as it is being created, all PlacementPolicies. Out: a JSON Patch, empty for most. Pure.
Invariant: the same decision as that of the expressions in `deploy/placement/gate.yaml`; one table of cases drives
the tests of both.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from overspill import names
from overspill.model.pods import OwnerReference
from overspill.placement.match import Directory
from overspill.placement.patch import Operation
from overspill.placement.pods import Pod

__all__ = ["gate", "mark"]

# What a pod's template says of a Deployment with the annotation; the number may change without a rollout.
MARK = "from the Deployment"
GATES = "/spec/schedulingGates"
TEMPLATE = "/spec/template/metadata"


class _Meta(Struct, frozen=True, rename="camel"):
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class _Annotated(Struct, frozen=True):
    """Of a pod, what `Pod` leaves out."""

    metadata: _Meta = _Meta()


class _Template(Struct, frozen=True):
    metadata: dict[str, Any] | None = None


class _DeploymentSpec(Struct, frozen=True):
    template: _Template = _Template()


class _Deployment(Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _DeploymentSpec = _DeploymentSpec()


pods = msgspec.json.Decoder(Pod)
annotated = msgspec.json.Decoder(_Annotated)
deployments = msgspec.json.Decoder(_Deployment)


def gate(policies: Directory, namespace: str, content: Raw) -> list[Operation]:
    """The gate of a pod that is to wait.

    Raises:
        msgspec.DecodeError: it is no pod.
    """
    pod, more = pods.decode(content), annotated.decode(content).metadata
    if pod.bound or pod.gated or any(owner.kind == "DaemonSet" for owner in more.owner_references):
        return []
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, namespace=namespace))
    if not _is_marked(pod, more) and not any(policy.gates for policy in policies.matching(pod)):
        return []
    ours = {"name": names.GATE}
    if pod.spec.scheduling_gates:
        return [{"op": "add", "path": f"{GATES}/-", "value": ours}]
    return [{"op": "add", "path": GATES, "value": [ours]}]


def _is_marked(pod: Pod, more: _Meta) -> bool:
    """Whether it is of a Deployment with the annotation, whose policy may not be there yet."""
    return (
        names.BASE_ANNOTATION in more.annotations
        and names.TEMPLATE_HASH in pod.labels
        and any(owner.kind == "ReplicaSet" for owner in more.owner_references)
    )


def mark(content: Raw) -> list[Operation]:
    """The annotation, handed on to the pods of a Deployment that carries it.

    Whether it may still be, since a template that changes is a rollout, the webhook's matchConditions say.

    Raises:
        msgspec.DecodeError: it is no Deployment.
    """
    deployment = deployments.decode(content)
    if names.BASE_ANNOTATION not in deployment.metadata.annotations:
        return []
    template = deployment.spec.template.metadata
    if template is None:
        return [{"op": "add", "path": TEMPLATE, "value": {"annotations": {names.BASE_ANNOTATION: MARK}}}]
    annotations = template.get("annotations")
    if annotations is None:
        return [{"op": "add", "path": f"{TEMPLATE}/annotations", "value": {names.BASE_ANNOTATION: MARK}}]
    if names.BASE_ANNOTATION in annotations:
        return []
    escaped = names.BASE_ANNOTATION.replace("/", "~1")
    return [{"op": "add", "path": f"{TEMPLATE}/annotations/{escaped}", "value": MARK}]
