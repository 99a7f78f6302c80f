"""Every container group of the region, and what follows from them all.

In: a group's next value. Out: the same, kept in the store first; sums (vCPU in use, stock, addresses, the
bill), orders (of creation, of change), what falls due, and ids of groups that the engine must look at.
Invariant: the sums follow from the groups, and are counted anew from them after a restart.
"""

import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from overspill.emulator.bill import Line
from overspill.emulator.details import detail
from overspill.emulator.groups import BILLED, Group, next_step
from overspill.emulator.network import Network
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import CreateContainerGroup
from overspill.emulator.specs import spec_name
from overspill.emulator.stock import Stock
from overspill.emulator.store import Store
from overspill.emulator.views import status

__all__ = ["Books", "Entry"]


class Entry:
    """A group, its request, and how the two look encoded; the looks are made when they are asked for."""

    __slots__ = ("_detail", "_status", "group", "request")

    def __init__(self, group: Group, request: CreateContainerGroup) -> None:
        self.group = group
        self.request = request
        self._status: msgspec.Raw | None = None
        self._detail: msgspec.Raw | None = None

    @property
    def seq(self) -> int:
        """The group's number."""
        return self.group.seq

    def change(self, group: Group) -> None:
        """Take the group's next value."""
        self.group = group
        self._status = self._detail = None

    def status(self) -> msgspec.Raw:
        """The item of DescribeContainerGroupStatus."""
        if self._status is None:
            self._status = msgspec.Raw(msgspec.json.encode(status(self.group)))
        return self._status

    def detail(self) -> msgspec.Raw:
        """The item of DescribeContainerGroups."""
        if self._detail is None:
            self._detail = msgspec.Raw(msgspec.json.encode(detail(self.group, self.request)))
        return self._detail


class Books:
    """All groups of one region."""

    def __init__(self, *, store: Store, network: Network, stock: Stock, clock: Callable[[], float]) -> None:
        self.store = store
        self.network = network
        self.stock = stock
        self.clock = clock
        self.used_cpu = 0.0
        # Called with the id of a group about which the engine has something to do.
        self.on_work: Callable[[str], None] = lambda _: None
        # Called when something falls due earlier than all else.
        self.on_due: Callable[[], None] = lambda: None
        self._entries: dict[str, Entry] = {}
        self._ordered: list[Entry] = []
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._due: list[tuple[float, str]] = []
        self._seq = 0
        self._load()

    def _load(self) -> None:
        loaded = [Entry(group, request) for group, request in self.store.groups()]
        for entry in loaded:
            self._enter(entry)
            self._restore(entry.group)
        by_change = sorted(loaded, key=lambda entry: entry.group.changed_at)
        self._recent = OrderedDict.fromkeys(entry.group.id for entry in by_change)

    def _restore(self, group: Group) -> None:
        if _holds_address(group):
            self.network.restore(group.vswitch, group.security_group, group.address)
        if not group.ended:
            self._count(group, 1)
        if group.status == "Scheduling":
            self.fall_due(group.id, at=self.clock())
        elif group.expires_at is not None and not group.ended:
            self.fall_due(group.id, at=group.expires_at)
        elif group.pending_until is not None and group.status == "Pending":
            self.fall_due(group.id, at=group.pending_until)

    def entries(self) -> Sequence[Entry]:
        """All groups that listings show, in the order of their creation."""
        return self._ordered

    def changed_since(self, at: float) -> list[Entry]:
        """Those of them that changed since, in the order of their creation."""
        found = []
        for group_id in reversed(self._recent):
            entry = self._entries[group_id]
            if entry.group.changed_at < at:
                break
            if not entry.group.hidden:
                found.append(entry)
        return sorted(found, key=lambda entry: entry.seq)

    def find(self, group_id: str) -> Entry:
        """One group.

        Raises:
            Refused: there is none that a listing would show.
        """
        entry = self._entries.get(group_id)
        if entry is None or entry.group.hidden:
            raise Refused(
                "InvalidContainerGroupId.NotFound",
                f"The specified container group {group_id} does not exist.",
            )
        return entry

    def get(self, group_id: str) -> Entry | None:
        """A group, also one that listings hide."""
        return self._entries.get(group_id)

    def all(self) -> list[Entry]:
        """All groups, also those that listings hide."""
        return list(self._entries.values())

    def with_work(self) -> list[str]:
        """The groups about which the engine has something to do."""
        return [entry.group.id for entry in self._entries.values() if next_step(entry.group)]

    def next_seq(self) -> int:
        """A number larger than all before, also than those of groups that are gone."""
        self._seq = max(self._seq + 1, int(self.clock() * 1e6))
        return self._seq

    def add(self, entry: Entry) -> None:
        """Keep a new group."""
        self.store.add_group(entry.group, entry.request)
        self._enter(entry)
        self._count(entry.group, 1)

    def change(self, entry: Entry, group: Group) -> None:
        """Keep a group's next value."""
        before = entry.group
        if group is before:
            return
        entry.change(group)
        self.store.put_group(group)
        self._bill(before, group)
        if group.ended and not before.ended:
            self._count(group, -1)
        if _holds_address(before) and not _holds_address(group):
            self.network.release(group.vswitch, group.security_group, group.address)
        if group.changed_at != before.changed_at:
            self._recent.move_to_end(group.id)
        if group.hidden and not before.hidden:
            self._unlist(entry)
        if next_step(group):
            self.on_work(group.id)

    def drop_if_done(self, entry: Entry) -> None:
        """Forget a group whose deletion was asked for, once the engine has nothing of it."""
        group = entry.group
        if not group.removing or group.submitted is not None or group.id not in self._entries:
            return
        with self.store.batch():
            self.store.end_billing(group.id, at=self.clock())
            self.store.drop_group(group.id)
        if not group.ended:
            self._count(group, -1)
        if _holds_address(group):
            self.network.release(group.vswitch, group.security_group, group.address)
        del self._entries[group.id]
        del self._recent[group.id]
        if not group.hidden:
            self._unlist(entry)

    def fall_due(self, group_id: str, *, at: float) -> None:
        """Have a group come up in `due` at a time."""
        heapq.heappush(self._due, (at, group_id))
        if self._due[0] == (at, group_id):
            self.on_due()

    def next_due(self) -> float | None:
        """When something falls due next."""
        return self._due[0][0] if self._due else None

    def due(self) -> list[Entry]:
        """What has fallen due by now; each comes up once."""
        found = []
        while self._due and self._due[0][0] <= self.clock():
            _, group_id = heapq.heappop(self._due)
            if entry := self._entries.get(group_id):
                found.append(entry)
        return found

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.group.id] = entry
        self._recent[entry.group.id] = None
        self._seq = max(self._seq, entry.seq)
        if not entry.group.hidden:
            self._ordered.append(entry)

    def _unlist(self, entry: Entry) -> None:
        del self._ordered[bisect_left(self._ordered, entry.seq, key=lambda each: each.seq)]

    def _bill(self, before: Group, after: Group) -> None:
        if after.status in BILLED and before.status not in BILLED:
            line = Line(
                after.id, after.name, after.cpu, after.memory, after.price, self.clock(), tags=after.tags
            )
            self.store.begin_billing(line)
        elif before.status in BILLED and after.status not in BILLED:
            self.store.end_billing(after.id, at=self.clock())

    def _count(self, group: Group, sign: int) -> None:
        self.used_cpu = round(self.used_cpu + sign * group.cpu, 3)
        change = self.stock.take if sign > 0 else self.stock.release
        change(group.zone, spec_name((group.cpu, group.memory)))


def _holds_address(group: Group) -> bool:
    """What has ended and is no more in the engine holds none; everything else does."""
    return not (group.ended and group.submitted is None)
