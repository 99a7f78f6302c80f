"""Finds container groups that nobody wants any more, again and again, and deletes them.

In: an inventory, a client. Out: deletions, Events, metrics, log lines. Invariant: a group is deleted only by a process
that surely leads, after two looks and the quiet time; a look that failed, or that something speaks against, deletes
nothing. Who led before has counted as well, but not while nobody looked.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct

from overspill.backends.base import Inventory
from overspill.errors import NotFound, OverspillError
from overspill.kube.client import Client
from overspill.kube.events import Events, ObjectRef
from overspill.metrics import (
    CONTAINER_GROUPS,
    DECOMMISSION_SECONDS,
    ORPHAN_PRICE,
    ORPHANS_DELETED,
    ORPHANS_DOUBTED,
    ORPHANS_LOOKED_AT,
    BackendCall,
)
from overspill.model.cost import hourly
from overspill.orphans.look import take_look
from overspill.orphans.record import Record
from overspill.orphans.sightings import Pace, Sightings
from overspill.orphans.sort import Look, Sorted, State, costs, counts, doubts, sort

__all__ = ["Collector", "Rules"]

log = structlog.get_logger(__name__)


class Rules(Struct, frozen=True, kw_only=True):
    """What the collector may do, and when; `delete` False only tells."""

    backend: str
    delete: bool
    quiet_seconds: float
    period_seconds: float
    per_minute: int


class Collector:
    """Works while it runs; what it saw goes to whoever runs next by its record."""

    def __init__(
        self,
        client: Client,
        inventory: Inventory,
        events: Events,
        rules: Rules,
        record: Record,
        *,
        sure: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sure` tells whether no other process can lead; asked before every deletion."""
        self._client = client
        self._inventory = inventory
        self._events = events
        self._rules = rules
        self._record = record
        self._sure = sure
        self._clock = clock
        self._sightings = Sightings(quiet_seconds=rules.quiet_seconds)
        self._pace = Pace(rules.per_minute)
        self._began = False
        self._version = 0
        self._doubt = ""

    async def run(self) -> None:
        """Look and collect until cancelled."""
        self._began, self._version, self._doubt = False, 0, ""
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._rules.period_seconds)
        finally:
            self._forget_metrics()

    async def look(self) -> None:
        """Look once, tell what was seen, and delete what is due."""
        try:
            with BackendCall(self._rules.backend, "inventory"):
                await self._begin()
                look = await take_look(self._client, self._inventory)
        except OverspillError as error:
            log.warning("orphans cannot be told; none is deleted", error=str(error))
            return
        now, found = self._clock(), sort(look)
        self._tell(look, found)
        self._check_version(look)
        for each in self._sightings.note(found, now):
            log.warning("container group is unwanted", state=each.state, why=each.why, **_facts(each))
        if self._sure():
            await self._record.keep(self._sightings.seen)
        doubt = doubts(look, found)
        self._tell_doubt(doubt)
        if not doubt and self._rules.delete:
            await self._delete(self._sightings.due(found))

    async def _begin(self) -> None:
        """Go on from what the leader before has seen, once."""
        if not self._began:
            self._sightings.begin(await self._record.read())
            self._began = True

    async def _delete(self, due: Sequence[Sorted]) -> None:
        for each in due:
            if not self._sure():
                return
            if not self._pace.take(self._clock()):
                log.info(
                    "more orphans are due than may be deleted in a minute", per_minute=self._rules.per_minute
                )
                return
            await self._remove(each)

    async def _remove(self, each: Sorted) -> None:
        try:
            with BackendCall(self._rules.backend, "remove"):
                await self._inventory.remove(each.group)
        except NotFound:
            return
        except OverspillError as error:
            log.warning("container group could not be deleted", error=str(error), **_facts(each))
            return
        ORPHANS_DELETED.labels(each.state).inc()
        log.warning("container group deleted", state=each.state, why=each.why, **_facts(each))
        self._events.normal(_regarding(each), f"{each.state}Deleted", _note(each))

    def _check_version(self, look: Look) -> None:
        """An apiserver whose versions went back was restored: what was seen before says nothing of it."""
        version = int(look.version) if look.version.isdigit() else 0
        if version < self._version:
            log.warning("the apiserver's versions went back; orphans are counted anew", version=version)
            self._sightings.begin({})
        self._version = version

    def _tell(self, look: Look, found: Sequence[Sorted]) -> None:
        for state, count in counts(found).items():
            CONTAINER_GROUPS.labels(state).set(count)
        CONTAINER_GROUPS.labels("Foreign").set(look.foreign)
        ORPHAN_PRICE.clear()
        for currency, price in costs(found).items():
            ORPHAN_PRICE.labels(currency).set(float(price))
        DECOMMISSION_SECONDS.set(max((time.time() - since for since in look.leaving), default=0.0))
        ORPHANS_LOOKED_AT.set_to_current_time()

    def _tell_doubt(self, doubt: str) -> None:
        ORPHANS_DOUBTED.set(bool(doubt))
        if doubt and doubt != self._doubt:
            note = (
                f"{doubt}: nothing is deleted; if that is right, run `overspill orphans delete --yes --force`"
            )
            log.warning("orphans are not believed", why=note)
            cluster = ObjectRef(kind="Namespace", name="kube-system", uid=self._inventory.cluster)
            self._events.warning(cluster, "OrphansDoubted", note)
        self._doubt = doubt

    def _forget_metrics(self) -> None:
        """Another replica tells them now."""
        for series in (CONTAINER_GROUPS, ORPHAN_PRICE):
            series.clear()
        for single in (DECOMMISSION_SECONDS, ORPHANS_DOUBTED, ORPHANS_LOOKED_AT):
            single.set(0)


def _facts(each: Sorted) -> dict[str, str]:
    identity = each.group.identity
    return {
        "group": each.group.id,
        "namespace": identity.namespace,
        "pod": identity.name,
        "uid": identity.uid,
        "node": identity.node,
    }


def _regarding(each: Sorted) -> ObjectRef:
    """The pod that has another group; an orphan's pod and perhaps its namespace are gone, so the node."""
    identity = each.group.identity
    if each.state is State.DUPLICATE:
        return ObjectRef(kind="Pod", name=identity.name, uid=identity.uid, namespace=identity.namespace)
    return ObjectRef(kind="Node", name=identity.node, uid=identity.node)


def _note(each: Sorted) -> str:
    group = each.group
    price = f"; it cost {hourly(group.price, group.currency)}" if group.price else ""
    return f"Deleted container group {group.id}: {each.why}{price}"
