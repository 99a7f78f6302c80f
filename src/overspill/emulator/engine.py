"""The backend that runs what container groups hold.

In: ids of groups about which something is to be done; the backend's sightings. Out: calls of the backend;
reports. Invariant: one worker at a time is at one group; no task belongs to a group; what a call's error
leaves open is tried again until a list or a sighting has answered it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

import structlog

from overspill.backends.base import Backend, PodUsage
from overspill.emulator.books import Books, Entry
from overspill.emulator.reports import Reports
from overspill.emulator.translate import identity, work_spec
from overspill.errors import NotFound, OverspillError, Rejected, Retry, Throttled, Unsupported
from overspill.model.observation import Gone
from overspill.model.work import Identity

__all__ = ["Engine"]

log = structlog.get_logger(__name__)

WORKERS = 16
RETRY_SECONDS = 1.0
REWATCH_SECONDS = 1.0


class Engine:
    """Keeps a backend in step with the books."""

    def __init__(self, backend: Backend, *, emulator: str, books: Books, networks: Mapping[str, str]) -> None:
        self.backend = backend
        self._emulator = emulator
        self._books = books
        self._networks = networks
        self._reports = Reports(books)
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        # Given to the backend with no certain answer: to be given again.
        self._uncertain: set[str] = set()
        self._listed = False
        books.on_work = self.look_at

    def look_at(self, group_id: str) -> None:
        """Have a worker look at a group."""
        if group_id not in self._queued:
            self._queued.add(group_id)
            self._queue.put_nowait(group_id)

    def identity(self, entry: Entry) -> Identity:
        """Whose work the engine has of a group."""
        group = entry.group
        return identity(
            self._emulator, group, attempt=group.attempt if group.submitted is None else group.submitted
        )

    async def run(self) -> None:
        """Run until cancelled; the backend has to be entered."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="engine watch")
            for number in range(WORKERS):
                tasks.create_task(self._work(), name=f"engine worker {number}")

    async def usage(self) -> dict[str, PodUsage]:
        """The latest samples, by group."""
        return {usage.identity.uid: usage for usage in await self.backend.usage()}

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self.backend.watch()) as batches:  # type: ignore[type-var]  # the iterators are generators
                    await self._list()
                    async for batch in batches:
                        self._reports.sighted(batch)
            except OverspillError as error:
                log.warning("engine cannot tell; watching it anew", error=str(error))
            await asyncio.sleep(REWATCH_SECONDS)

    async def _list(self) -> None:
        # What was not yet given, or not for certain, when the list was asked for can be missing from it.
        expected = self._reports.expected() - {*self._busy, *self._uncertain}
        listing = await self.backend.list()
        nobodys = self._reports.listed(listing, expected=expected, restarted=not self._listed)
        self._listed = True
        for observation in nobodys:
            if observation.deleting or observation.identity.uid in self._busy:
                continue
            log.warning("engine runs what no group holds; removing it", group=observation.identity.uid)
            await self._delete(observation.identity, grace=0)
        for group_id in self._books.with_work():
            self.look_at(group_id)

    async def _work(self) -> None:
        while True:
            group_id = await self._queue.get()
            self._queued.discard(group_id)
            if group_id in self._busy:
                self._later(group_id, 0.05)
                continue
            self._busy.add(group_id)
            try:
                await self._step(group_id)
            except OverspillError as error:
                log.info("engine cannot tell; trying again", group=group_id, error=str(error))
                wait = error.retry_after if isinstance(error, Throttled) else 0.0
                self._later(group_id, max(wait, RETRY_SECONDS))
            finally:
                self._busy.discard(group_id)

    def _later(self, group_id: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.look_at, group_id)

    async def _step(self, group_id: str) -> None:
        found = self._reports.step(group_id)
        entry = self._books.get(group_id)
        if found and found[0].verb == "delete":
            self._uncertain.discard(group_id)
            whose = identity(self._emulator, found[1].group, attempt=found[0].attempt)
            await self._delete(whose, grace=found[1].group.grace_seconds)
        elif found:
            self._reports.submitted(group_id)
            await self._create(found[1])
        elif entry and group_id in self._uncertain:
            await self._create(entry)

    async def _create(self, entry: Entry) -> None:
        group = entry.group
        self._uncertain.add(group.id)
        try:
            network = self._networks.get(group.vswitch, "")
            work = work_spec(self._emulator, group, entry.request, engine=self.backend.name, network=network)
            await self.backend.create(work)
        except (Rejected, Unsupported) as error:
            self._reports.refused(group.id, "CreateContainerError", str(error))
        except Retry:
            raise
        except OverspillError as error:
            log.error("engine refuses a group", group=group.id, error=str(error))  # noqa: TRY400 - no traceback helps
            self._reports.refused(group.id, "EngineError", str(error))
        self._uncertain.discard(group.id)

    async def _delete(self, whose: Identity, *, grace: int) -> None:
        try:
            await self.backend.delete(whose, grace_seconds=grace)
        except NotFound:
            self._reports.sighted([Gone(whose)])
