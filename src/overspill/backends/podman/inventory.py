"""All pods of one cluster at one host's Podman, over all of its virtual nodes.

In: Podman's list. Out: `Listing`s; single removals. Invariant: a pod is of this cluster only if its own labels say
so. Its folder goes first, for an agent that found the folder would make the pod anew.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from overspill.backends.base import ContainerGroup, Listing
from overspill.backends.podman import tags
from overspill.backends.podman.api import ListedPod, Podman
from overspill.backends.podman.client import Client
from overspill.backends.podman.folder import Folder, node_root
from overspill.backends.podman.inspect import instant, place_labels
from overspill.backends.podman.options import read_options
from overspill.errors import Conflict, Retry
from overspill.model.work import Identity

__all__ = ["PodmanInventory"]

GRACE = 10  # seconds between SIGTERM and SIGKILL: Podman's own
ENDED = frozenset({"Exited", "Stopped"})


class PodmanInventory:
    """The `Inventory` of one Podman; its groups cost nothing."""

    def __init__(
        self, *, cluster: str, options: Mapping[str, Any], clock: Callable[[], float] = time.time
    ) -> None:
        self._options = read_options(options)
        self.cluster = cluster
        self._podman = Podman(Client(self._options.socket))
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._podman.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._podman.client.__aexit__(kind, error, trace)

    async def list(self) -> Listing:
        """Every pod of this cluster."""
        pods = await self._podman.pods({})
        groups = [self._group(pod, identity) for pod in pods if (identity := self._identity(pod))]
        return Listing(groups, foreign=len(pods) - len(groups))

    async def node_labels(self) -> Mapping[str, str]:
        """Those of the nodes whose pods are at this Podman."""
        return place_labels(await self._podman.info())

    async def remove(self, group: ContainerGroup) -> None:
        """Stop and remove one pod, with its volumes and its record."""
        found = await self._podman.pod(group.id)
        if tags.identity_of(found.labels or {}) != group.identity:
            raise Conflict(f"Podman's pod {group.id} is not of pod {group.identity.uid} any more")
        try:
            await asyncio.to_thread(self._folder(group.identity).remove)
        except OSError as error:
            raise Retry(f"backend podman: {self._options.data_dir} cannot be used: {error}") from error
        await self._podman.remove_pod(group.id, grace=GRACE)
        for volume in await self._podman.volumes(tags.pod_filters(group.identity)):
            await self._podman.remove_volume(volume.name)

    def _identity(self, pod: ListedPod) -> Identity | None:
        identity = tags.identity_of(pod.labels or {})
        return identity if identity and identity.cluster == self.cluster else None

    def _folder(self, identity: Identity) -> Folder:
        return Folder(node_root(self._options.data_dir, identity.cluster, identity.node), identity)

    def _group(self, pod: ListedPod, identity: Identity) -> ContainerGroup:
        return ContainerGroup(
            id=pod.id,
            identity=identity,
            created_at=instant(pod.created),
            status=pod.status,
            terminating=self._terminating(identity),
            ended=pod.status in ENDED,
        )

    def _terminating(self, identity: Identity) -> bool:
        """Whether an agent was told to end it, and its grace has not run out; where the folders can be seen."""
        try:
            deletion = self._folder(identity).deletion()
        except OSError:
            return False
        return deletion is not None and self._clock() < deletion.at + deletion.grace
