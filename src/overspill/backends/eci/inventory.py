"""All container groups of one cluster, over all of its virtual nodes.

In: listings of ECI. Out: `Listing`s; single removals. Invariant: a group is of this cluster only if its own tags say
so, whatever the listing was asked for, and they are read once more before it is removed. Its calls have budgets of
their own, a small part of the account's: what agents share by `Share` is not touched.

The cheap listing (200 a page) has no tags, so each group's entry is fetched once (20 a call); neither tags nor size
of a group ever change.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct

from overspill.backends.base import ContainerGroup, Listing
from overspill.backends.eci.answers import GroupEntry, GroupsPage, StatusEntry, StatusPage, at
from overspill.backends.eci.client import Client
from overspill.backends.eci.credentials import find_credentials
from overspill.backends.eci.groups import chunks
from overspill.backends.eci.options import read_options
from overspill.backends.eci.poll import IDS_PER_CALL, STATUS, STATUS_LIMIT
from overspill.backends.eci.prices import Kind, annotations_of_entry, kind_of_entry
from overspill.backends.eci.quotes import Quotes
from overspill.backends.eci.rates import DEFAULTS, Budget, Rates
from overspill.backends.eci.status import ENDED
from overspill.backends.eci.tags import cluster_tags, identity_of
from overspill.errors import Conflict, NotFound, Retry
from overspill.model.cost import price_of
from overspill.model.work import Identity

__all__ = ["EciInventory"]

# Of each of the account's budgets.
PART = 0.1


class _Nothing(Struct):
    """An answer that holds nothing but its RequestId."""


class _Known(Struct, frozen=True):
    """What never changes of a group."""

    identity: Identity
    created_at: float
    kind: Kind | None
    annotations: Mapping[str, str]


class EciInventory:
    """The `Inventory` of one account and region."""

    def __init__(self, *, cluster: str, options: Mapping[str, Any]) -> None:
        read = read_options(options)
        budgets = {**DEFAULTS, **read.budgets}
        self.cluster = cluster
        self._client = Client(
            endpoint=read.host,
            region=read.region,
            credentials=find_credentials(os.environ, region=read.region),
            rates=Rates({name: _part(budget) for name, budget in budgets.items()}),
        )
        self._quotes = Quotes(self._client)
        self._known: dict[str, _Known | None] = {}
        self._one = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def list(self) -> Listing:
        """Every group of this cluster; one list at a time."""
        async with self._one:
            return await self._list()

    async def _list(self) -> Listing:
        everything = await self._client.call(STATUS, {"Limit": 1}, StatusPage)
        asked = {"Limit": STATUS_LIMIT, "Tag": cluster_tags(self.cluster)}
        pages = self._client.pages(STATUS, asked, StatusPage)
        entries = {entry.container_group_id: entry async for page in pages for entry in page.data}
        await self._learn(entries)
        await self._require([id_ for id_ in entries if id_ not in self._known])
        groups = [
            self._group(entry, known) for id_, entry in entries.items() if (known := self._known.get(id_))
        ]
        return Listing(groups, foreign=max(everything.total_count - len(groups), 0))

    async def remove(self, group: ContainerGroup) -> None:
        """Delete one group, if it still is whose it was."""
        found = next(iter(await self._entries([group.id])), None)
        if found is None:
            raise NotFound(f"ECI has no container group {group.id}")
        if identity_of(found.tagged) != group.identity:
            raise Conflict(f"container group {group.id} is not of pod {group.identity.uid} any more")
        await self._client.call("DeleteContainerGroup", {"ContainerGroupId": group.id}, _Nothing)

    async def _learn(self, entries: Mapping[str, StatusEntry]) -> None:
        """Know each of these groups and no other; one that is gone already stays unknown."""
        self._known = {id_: known for id_, known in self._known.items() if id_ in entries}
        for some in chunks((id_ for id_ in entries if id_ not in self._known), IDS_PER_CALL):
            for entry in await self._entries(some):
                self._known[entry.container_group_id] = self._of(entry)
        await self._quotes.catch_up(tell=lambda _: None)

    async def _require(self, unknown: Sequence[str]) -> None:
        """None of these may be there: nobody could say whose they are.

        Raises:
            Retry: one is, as while ECI's indexes disagree.
        """
        for some in chunks(unknown, IDS_PER_CALL):
            asked = {"ContainerGroupIds": msgspec.json.encode(some).decode(), "Limit": STATUS_LIMIT}
            page = await self._client.call(STATUS, asked, StatusPage)
            if page.data:
                raise Retry(
                    f"ECI lists container group {page.data[0].container_group_id} but does not describe it"
                )

    async def _entries(self, ids: Sequence[str]) -> Sequence[GroupEntry]:
        asked = {"ContainerGroupIds": msgspec.json.encode(ids).decode(), "Limit": IDS_PER_CALL}
        pages = self._client.pages("DescribeContainerGroups", asked, GroupsPage)
        return [entry async for page in pages for entry in page.container_groups]

    def _of(self, entry: GroupEntry) -> _Known | None:
        identity = identity_of(entry.tagged)
        if identity is None or identity.cluster != self.cluster:
            return None
        kind = kind_of_entry(entry)
        self._quotes.of(kind)
        return _Known(identity, at(entry.creation_time), kind, annotations_of_entry(entry))

    def _group(self, entry: StatusEntry, known: _Known) -> ContainerGroup:
        idle = entry.status in {"Scheduling", *ENDED}
        price, currency = price_of({**known.annotations, **self._quotes.of(known.kind)}) or (None, "")
        return ContainerGroup(
            id=entry.container_group_id,
            identity=known.identity,
            created_at=known.created_at,
            status=entry.status,
            terminating=entry.status == "Terminating",
            ended=entry.status in ENDED,
            price=Decimal(0) if idle else price,
            currency=currency,
        )


def _part(budget: Budget) -> Budget:
    return Budget(budget.rate * PART, max(budget.burst * PART, 1.0))
