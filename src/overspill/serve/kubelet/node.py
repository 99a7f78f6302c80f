"""What the kubelet API is told by its agent.

In: nothing. Out: a Protocol that the agent implements. Invariant: reading only; what is done to a
container goes straight to the backend.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from overspill.backends.base import Backend, PodUsage
from overspill.model.observation import ContainerObservation, Observation
from overspill.model.pods import Pod
from overspill.model.work import Identity

__all__ = ["ServedNode", "ServedPod"]


class ServedPod(Struct, frozen=True):
    """A pod of this node, and how it stands; `seen` is None until the backend has taken it on."""

    pod: Pod
    identity: Identity
    seen: Observation | None = None

    def container(self, name: str) -> ContainerObservation | None:
        """How one of its containers stands, as far as the backend has said."""
        return next((each for each in self.containers() if each.name == name), None)

    def containers(self) -> Sequence[ContainerObservation]:
        """How all its containers stand."""
        seen = self.seen
        return (*seen.containers, *seen.init_containers, *seen.ephemeral_containers) if seen else ()


class ServedNode(Protocol):
    """One virtual node, as its agent knows it.

    Attributes:
        settings: what /configz shows; no secrets.
    """

    name: str
    backend: Backend
    settings: dict[str, Any]

    def find(self, namespace: str, name: str) -> ServedPod | None:
        """The pod of this name."""

    def pods(self) -> Iterable[ServedPod]:
        """Every pod that the apiserver has on this node."""

    def pod_status(self, served: ServedPod) -> dict[str, Any]:
        """The v1.PodStatus of a pod, as it stands now."""

    def sync_trouble(self) -> str | None:
        """Why the node's pods may not be up to date, or None."""

    async def resource_metrics(self) -> bytes:
        """The text of /metrics/resource."""

    async def summary(self) -> bytes:
        """The JSON of /stats/summary."""

    async def usage(self) -> Iterable[PodUsage]:
        """The newest sample of what the running containers use."""
