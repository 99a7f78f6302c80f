"""All pods of one cluster at one host's Podman, over all of its virtual nodes.

In: Podman's list. Out: `Listing`s; single removals. Invariant: a pod is of this cluster only if its own labels say
so. Its end is recorded first and its folder goes last, so that an agent that comes in between goes on with it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from overspill.backends.base import ContainerGroup, Listing
from overspill.backends.podman import tags
from overspill.backends.podman.api import ListedPod, Podman
from overspill.backends.podman.client import Client
from overspill.backends.podman.folder import Folder, node_root
from overspill.backends.podman.inspect import instant, place_labels, run_of
from overspill.backends.podman.options import read_options
from overspill.backends.podman.seen import Deletion, Run
from overspill.errors import Conflict, NotFound, Retry
from overspill.model.work import Identity

__all__ = ["PodmanInventory"]

GRACE = 10.0  # seconds between SIGTERM and SIGKILL where no record tells: Podman's own
PATIENCE = 30.0  # seconds for which a removal waits for the pod's end
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
        folder = self._folder(group.identity)
        with self._recording():
            grace = self._record_end(folder)
        await self._end(group.identity, grace)
        await self._podman.remove_pod(group.id)
        for volume in await self._podman.volumes(tags.pod_filters(group.identity)):
            await self._podman.remove_volume(volume.name)
        with self._recording():
            await asyncio.to_thread(folder.remove)

    def _record_end(self, folder: Folder) -> float:
        """Have the pod's end on record; returns how many seconds of its grace are left."""
        record, deletion, now = folder.record(), folder.deletion(), self._clock()
        if deletion is None and record:
            deletion = Deletion(now, float(record.work.termination_grace_period_seconds))
            folder.write_deletion(deletion)
        return max(0.0, deletion.at + deletion.grace - now) if deletion else GRACE

    async def _end(self, identity: Identity, grace: float) -> None:
        """Ask what runs to end, and wait for it: while a removal waits, Podman lists no pods.

        Raises:
            Retry: its grace is longer than anybody waits here; until it is over the pod shows as terminating.
        """
        running = await self._running(identity)
        for run in running:
            await self._podman.kill(run.id, run.stop_signal)
        if not grace:
            return
        ended = await asyncio.gather(*(self._ends(run, min(grace, PATIENCE)) for run in running))
        if grace > PATIENCE and not all(ended):
            raise Retry(f"pod {identity.namespace}/{identity.name} ends within its grace of {grace:.0f} s")

    async def _running(self, identity: Identity) -> Sequence[Run]:
        running = []
        for each in await self._podman.containers(tags.pod_filters(identity)):
            with suppress(NotFound):
                run = run_of(await self._podman.inspect(each.id))
                if run and run.state == "running":
                    running.append(run)
        return running

    async def _ends(self, run: Run, seconds: float) -> bool:
        try:
            return await self._podman.wait(run.id, seconds=seconds) is not None
        except NotFound:
            return True

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Retry(f"backend podman: {self._options.data_dir} cannot be used: {error}") from error

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
