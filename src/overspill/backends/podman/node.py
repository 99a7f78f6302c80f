"""All pods of one virtual node: finding them again, and waking their supervisors.

In: Podman's events, listings, the folders. Out: supervisors that know of every
change. Invariant: events are only wakes; what they say is looked up, so that a
lost, doubled or late one does no harm. After each break of the event stream,
and once a minute for events that Podman dropped, one listing of the whole node
stands in for what was missed.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import structlog

from overspill import names
from overspill.backends.feed import Feed
from overspill.backends.podman import tags
from overspill.backends.podman.api import Event, ListedContainer, ListedPod, Podman
from overspill.backends.podman.eviction import enforce_limits
from overspill.backends.podman.folder import Folder, Record, folders
from overspill.backends.podman.pull import Puller
from overspill.backends.podman.seen import Sandbox
from overspill.backends.podman.state import PodState
from overspill.backends.podman.supervisor import Supervisor
from overspill.errors import OverspillError, Retry
from overspill.model.observation import Observation, Sighting
from overspill.model.work import Identity, WorkSpec

__all__ = ["Node"]

log = structlog.get_logger(__name__)

Key = tuple[str, int]

RECONNECT = 0.5  # seconds between attempts to reach Podman
RELIST = 60.0  # seconds
# Making pods is bound by the CPUs that Podman runs on; more at once only lengthens each.
SLOTS = 2 * (os.cpu_count() or 1) + 2
# Only these change what is known without this process having done it.
NOTICED = ("died", "remove", "pause", "unpause")


class Node:
    """The pods of one virtual node; the `Host` of their supervisors."""

    def __init__(
        self,
        podman: Podman,
        *,
        cluster: str,
        node: str,
        network: str,
        root: Path,
        clock: Callable[[], float],
    ) -> None:
        self.podman = podman
        self.puller = Puller(podman)
        self.network = network
        self.slots = asyncio.Semaphore(SLOTS)
        self.feed = Feed()
        self._clock = clock
        self._root = root
        self._labels = {names.CLUSTER_TAG: cluster, names.NODE_TAG: node}
        self._query = tags.filters(cluster, node)
        self._events = tags.event_filters(node, NOTICED)
        self._supervisors: dict[Key, Supervisor] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._oom_is_told = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Find everything again and look after it; on leaving, let go of it as it is.

        Raises:
            Retry: Podman does not answer.
        """
        self._oom_is_told = (await self.podman.info()).host.cgroup_version != "v1"
        for folder, record in folders(self._root):
            self._enter(record.work.identity, folder, work=record.work, taken_at=record.taken_at)
        await self.relist()
        await asyncio.gather(*(self._look_first(found.pod) for found in self._supervisors.values()))
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            self._group = group
            own = [
                group.create_task(self._listen()),
                group.create_task(self._relist_regularly()),
                group.create_task(enforce_limits(self.supervisors)),
            ]
            for key, supervisor in self._supervisors.items():
                self._start(key, supervisor)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, not wrapped in a group
                failure = error
            finally:
                self._group = None
                for task in (*own, *self._tasks.values()):
                    task.cancel()
        if failure:
            raise failure

    async def _look_first(self, pod: PodState) -> None:
        """A pod that cannot be looked at keeps nobody from starting: its supervisor goes on trying."""
        try:
            await pod.look(self.podman)
        except Retry:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent and the other pods go on
            log.warning("pod cannot be looked at", pod=pod.identity.name, error=str(error))
            pod.unknown = True

    # --- the host of the supervisors ---

    def clock(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def publish(self, sighting: Sighting) -> None:
        """Tell the watchers."""
        self.feed.publish(sighting)

    # --- pods ---

    def add(self, work: WorkSpec) -> None:
        """Take a pod on; one that is known already stays as it is, or gets back the work it had lost."""
        known = self.find(work.identity)
        if known and known.pod.work:
            return
        folder = Folder(self._root, work.identity)
        taken_at = known.pod.taken_at if known else self.clock()
        folder.create(Record(taken_at, work))
        if known:
            known.pod.work = work
            known.pod.notice()
        else:
            key = _key(work.identity)
            self._start(key, self._enter(work.identity, folder, work=work, taken_at=taken_at))

    def find(self, identity: Identity) -> Supervisor | None:
        """The supervisor of a pod."""
        return self._supervisors.get(_key(identity))

    def supervisors(self) -> list[Supervisor]:
        """Those of all pods."""
        return list(self._supervisors.values())

    def observations(self) -> list[Observation]:
        """All pods as they stand."""
        return [supervisor.observation() for supervisor in self._supervisors.values()]

    async def relist(self) -> None:
        """Look at the whole node: find pods that were not known, wake those that may have changed.

        Raises:
            Retry: Podman does not answer; nothing has changed then.
        """
        pods = await self.podman.pods(self._query)
        containers = await self.podman.containers(self._query)
        self._adopt(pods, containers)

    def _adopt(self, pods: Sequence[ListedPod], containers: Sequence[ListedContainer]) -> None:
        """Removals are not read from a listing, which may be older than what is known: they are looked up."""
        members: defaultdict[str, set[str]] = defaultdict(set)
        for container in containers:
            members[container.pod].add(container.id)
        for listed in pods:
            identity = tags.identity_of(listed.labels or {})
            if identity is None:
                continue
            supervisor = self.find(identity) or self._adopt_remains(identity)
            pod = supervisor.pod
            pod.sandbox = pod.sandbox or Sandbox(listed.id, listed.infra_id)
            pod.notice(members[listed.id] - pod.runs.keys())
        for supervisor in self._supervisors.values():
            supervisor.pod.doubt()
            supervisor.pod.notice()

    def _adopt_remains(self, identity: Identity) -> Supervisor:
        """A pod without a folder: it can be seen and ended, but not restarted."""
        log.warning("pod found without its record", pod=identity.name, uid=identity.uid)
        folder = Folder(self._root, identity)
        supervisor = self._enter(identity, folder, work=None, taken_at=self.clock())
        self._start(_key(identity), supervisor)
        return supervisor

    def _enter(
        self, identity: Identity, folder: Folder, *, work: WorkSpec | None, taken_at: float
    ) -> Supervisor:
        pod = PodState(identity, folder, work=work, taken_at=taken_at, oom_is_told=self._oom_is_told)
        supervisor = self._supervisors[_key(identity)] = Supervisor(self, pod)
        return supervisor

    def _start(self, key: Key, supervisor: Supervisor) -> None:
        if self._group and key not in self._tasks:
            self._tasks[key] = self._group.create_task(self._supervise(key, supervisor))

    async def _supervise(self, key: Key, supervisor: Supervisor) -> None:
        try:
            await supervisor.run()
            del self._supervisors[key]
        finally:
            del self._tasks[key]

    # --- events ---

    async def _listen(self) -> None:
        """Hear Podman's events, for ever; after each break list what was missed."""
        while True:
            try:
                async with aclosing(self.podman.events(self._events)) as events:
                    async for event in events:
                        if event is None:
                            await self.relist()
                        else:
                            self._hear(event)
            except OverspillError as error:
                log.warning("events of Podman broke off", error=str(error))
            except Exception:  # whatever one container's event says, the agent hears of the others
                log.exception("events of Podman broke off")
            await asyncio.sleep(RECONNECT)

    def _hear(self, event: Event) -> None:
        attributes = event.actor.attributes or {}
        identity = tags.identity_of(attributes)
        if identity is None or not attributes.items() >= self._labels.items():
            return
        if supervisor := self.find(identity):
            supervisor.pod.notice([event.actor.id])

    async def _relist_regularly(self) -> None:
        while True:
            await asyncio.sleep(RELIST)
            try:
                await self.relist()
            except OverspillError as error:
                log.warning("pods could not be listed", error=str(error))


def _key(identity: Identity) -> Key:
    return identity.uid, identity.attempt
