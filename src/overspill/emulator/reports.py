"""What the engine tells of container groups, and what it is to do about them.

In: sightings and complete lists of a backend. Out: the groups' next values; the engine's next step.
Invariant: a group that should be in the engine and is in no complete list has been lost; what is in the
list and in no group is nobody's, and is named so that it can be removed.
"""

from collections.abc import Iterable, Sequence

from msgspec import structs

from overspill.emulator import groups as life
from overspill.emulator.books import Books, Entry
from overspill.emulator.groups import Step, next_step
from overspill.emulator.happenings import TOLD_BY_STATES, Event
from overspill.emulator.sidecars import as_containers
from overspill.model.observation import Gone, Happened, Observation, Sighting

__all__ = ["Reports"]


class Reports:
    """The engine's view of the books."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def step(self, group_id: str) -> tuple[Step, Entry] | None:
        """What the engine is to do about a group now."""
        entry = self._books.get(group_id)
        step = next_step(entry.group) if entry else None
        return (step, entry) if step and entry else None

    def submitted(self, group_id: str) -> None:
        """Take note that the engine is being given the group's attempt, before it is."""
        if entry := self._books.get(group_id):
            self._books.change(entry, structs.replace(entry.group, submitted=entry.group.attempt))

    def refused(self, group_id: str, reason: str, message: str) -> None:
        """The engine will not run this group."""
        if entry := self._books.get(group_id):
            without = structs.replace(entry.group, submitted=None)
            self._books.change(
                entry, life.failed(without, reason=reason, message=message, at=self._books.clock())
            )
            self._books.drop_if_done(entry)

    def sighted(self, sightings: Iterable[Sighting]) -> None:
        """What the engine has seen."""
        with self._books.store.batch():
            for sighting in sightings:
                self._sighted(sighting)

    def _sighted(self, sighting: Sighting) -> None:
        entry = self._books.get(sighting.identity.uid)
        if entry is None:
            return
        if isinstance(sighting, Observation):
            self._seen(entry, sighting)
        elif isinstance(sighting, Happened):
            if sighting.reason not in TOLD_BY_STATES:
                self._books.change(entry, life.with_events(entry.group, [self._event(sighting)]))
        elif sighting.identity.attempt == entry.group.submitted:
            self._gone(entry, sighting)

    def _seen(self, entry: Entry, observation: Observation) -> None:
        told = as_containers(observation, entry.request.container)
        self._books.change(entry, life.seen(entry.group, told, at=self._books.clock()))

    def _event(self, told: Happened) -> Event:
        kind = "Warning" if told.warning else "Normal"
        return Event(kind, told.reason, told.message, self._books.clock())

    def _gone(self, entry: Entry, gone: Gone) -> None:
        if gone.last:
            self._seen(entry, gone.last)
        self._books.change(entry, life.lost(entry.group, at=self._books.clock()))
        self._books.drop_if_done(entry)

    def expected(self) -> set[str]:
        """The groups that the engine has something of, as far as is known."""
        return {entry.group.id for entry in self._books.all() if entry.group.submitted is not None}

    def listed(
        self, listing: Sequence[Observation], *, expected: Iterable[str], restarted: bool
    ) -> list[Observation]:
        """A complete list of what the engine has; returns what is nobody's.

        What is expected and not there has been lost; but after a restart of the emulator the engine may
        have kept nothing, and what lived is begun again, as after a reboot of the host.
        """
        there = {(o.identity.uid, o.identity.attempt) for o in listing}
        with self._books.store.batch():
            for group_id in expected:
                entry = self._books.get(group_id)
                submitted = entry.group.submitted if entry else None
                if entry and submitted is not None and (group_id, submitted) not in there:
                    self._vanished(entry, restarted=restarted)
        self.sighted(listing)
        return [o for o in listing if self._is_nobodys(o)]

    def _is_nobodys(self, observation: Observation) -> bool:
        entry = self._books.get(observation.identity.uid)
        return entry is None or entry.group.submitted != observation.identity.attempt

    def _vanished(self, entry: Entry, *, restarted: bool) -> None:
        group = entry.group
        if restarted and not group.ended and not group.removing:
            text = "The instance was rebooted, and its containers begin again."
            event = Event("Warning", "SystemReboot", text, self._books.clock(), "EciService")
            self._books.change(entry, life.with_events(structs.replace(group, submitted=None), [event]))
        else:
            self._books.change(entry, life.lost(group, at=self._books.clock()))
        self._books.drop_if_done(entry)
