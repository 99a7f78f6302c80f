"""What the pods of one node share, and how a pod's parts tell the user of something.

In: from `node.py`, which is it. Out: to whatever looks after one pod. Invariant:
nothing here belongs to a single pod.
"""

import asyncio
from typing import Protocol

from overspill.backends.podman.api import Podman
from overspill.backends.podman.pull import Puller
from overspill.backends.podman.state import PodState
from overspill.model.observation import Happened, Sighting

__all__ = ["Host", "tell"]


class Host(Protocol):
    """One node's."""

    podman: Podman
    puller: Puller
    network: str
    slots: asyncio.Semaphore

    def clock(self) -> float:
        """Seconds since 1970."""

    def publish(self, sighting: Sighting) -> None:
        """Tell the watchers."""


def tell(  # the Event's own parts
    host: Host, pod: PodState, container: str, reason: str, message: str, *, warning: bool = True
) -> None:
    """Tell the user of something about a container."""
    inits = pod.work.init_containers if pod.work else ()
    kind = "initContainers" if any(init.name == container for init in inits) else "containers"
    host.publish(Happened(pod.identity, f"spec.{kind}{{{container}}}", reason, message, warning))
