"""How pods are named and labelled in Podman, and read back from a listing.

In: an `Identity`. Out: names and labels; and the other way round. Invariant:
names follow from uid and attempt alone, so that a second create of the same
thing collides instead of doubling it; no label holds a secret.
"""

from collections.abc import Mapping, Sequence

import msgspec

from overspill import names
from overspill.model.work import Container, Identity, Resources

__all__ = [
    "ADDRESS_LABEL",
    "ASKED_IMAGE_LABEL",
    "BACKOFF_LABEL",
    "CONTAINER_LABEL",
    "IMAGE_LABEL",
    "RUN_LABEL",
    "container_labels",
    "container_name",
    "event_filters",
    "filters",
    "identity_of",
    "keeper_name",
    "labels",
    "pod_filters",
    "pod_name",
    "resources_of",
    "volume_name",
]

CONTAINER_LABEL = f"{names.DOMAIN}/container"
# Counts the runs of one container from 0: the restart count that survives the agent.
RUN_LABEL = f"{names.DOMAIN}/run"
# Seconds of back-off that came before this run; the next one doubles them.
BACKOFF_LABEL = f"{names.DOMAIN}/backoff"
# The pod's address, which Podman forgets once the pod's infra container has ended.
ADDRESS_LABEL = f"{names.DOMAIN}/address"
# The image that was run, as repository@digest where that is known.
IMAGE_LABEL = f"{names.DOMAIN}/image-id"
# The image in the pod's own words.
ASKED_IMAGE_LABEL = f"{names.DOMAIN}/image"
# The requests and limits that the run was made with.
RESOURCES_LABEL = f"{names.DOMAIN}/resources"


def labels(identity: Identity) -> dict[str, str]:
    """The labels of a pod, its containers and its volumes."""
    return {
        names.CLUSTER_TAG: identity.cluster,
        names.NODE_TAG: identity.node,
        names.NAMESPACE_TAG: identity.namespace,
        names.POD_TAG: identity.name,
        names.UID_TAG: identity.uid,
        names.ATTEMPT_TAG: str(identity.attempt),
    }


def container_labels(
    identity: Identity, container: Container, *, run: int, backoff: float, address: str, image_id: str
) -> dict[str, str]:
    """The labels of one run of a container."""
    return labels(identity) | {
        CONTAINER_LABEL: container.name,
        RUN_LABEL: str(run),
        BACKOFF_LABEL: f"{backoff:g}",
        ADDRESS_LABEL: address,
        IMAGE_LABEL: image_id,
        ASKED_IMAGE_LABEL: container.image,
        RESOURCES_LABEL: msgspec.json.encode(container.resources).decode(),
    }


def resources_of(found: Mapping[str, str]) -> Resources:
    """The requests and limits that labels tell of."""
    return msgspec.json.decode(found.get(RESOURCES_LABEL, "{}"), type=Resources)


def identity_of(found: Mapping[str, str]) -> Identity | None:
    """The identity that labels tell of, or None if they are not ours."""
    attempt = found.get(names.ATTEMPT_TAG, "")
    if names.UID_TAG not in found or not attempt.isdigit():
        return None
    return Identity(
        cluster=found.get(names.CLUSTER_TAG, ""),
        node=found.get(names.NODE_TAG, ""),
        namespace=found.get(names.NAMESPACE_TAG, ""),
        name=found.get(names.POD_TAG, ""),
        uid=found[names.UID_TAG],
        attempt=int(attempt),
    )


def filters(cluster: str, node: str) -> dict[str, str]:
    """The query that lists one node's pods or containers only."""
    return _filters(label=[f"{names.CLUSTER_TAG}={cluster}", f"{names.NODE_TAG}={node}"])


def pod_filters(identity: Identity) -> dict[str, str]:
    """The query that lists what belongs to one pod; names of containers and volumes begin as the pod's does."""
    return _filters(label=[f"{names.UID_TAG}={identity.uid}"], name=[pod_name(identity) + "-"])


def event_filters(node: str, actions: Sequence[str]) -> dict[str, str]:
    """The query for a node's events; of several labels Podman would ask for any, not all."""
    return _filters(type=["container"], event=list(actions), label=[f"{names.NODE_TAG}={node}"])


def _filters(**wanted: list[str]) -> dict[str, str]:
    return {"filters": msgspec.json.encode(wanted).decode()}


def pod_name(identity: Identity) -> str:
    """The name of the pod in Podman."""
    return f"pod-{identity.uid}-{identity.attempt}"


def container_name(identity: Identity, *, container: str, run: int) -> str:
    """The name of one run of a container."""
    return f"{pod_name(identity)}-{container}-{run}"


def keeper_name(identity: Identity) -> str:
    """The name of the container that keeps memory-backed volumes mounted."""
    return f"{pod_name(identity)}-keeper"


def volume_name(identity: Identity, volume: str) -> str:
    """The name of a memory-backed volume."""
    return f"{pod_name(identity)}-{volume}"
