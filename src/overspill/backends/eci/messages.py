"""What containers said last, taken from their logs where their pods want that and they wrote no message.

In: observations of groups; DescribeContainerLog. Out: observations with messages. Invariant: an end is told once
its log has been asked for, whatever came of that, but without it if that takes long or a new process finds it;
one log at a time, so that whoever reads logs is not held up.
ECI's own TerminationMessagePolicy is not sent: nothing public says what it does.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (80 lines, 2,048 bytes).
"""

import asyncio
from collections import defaultdict
from typing import NamedTuple

import structlog
from msgspec import structs

from overspill.backends.eci.answers import LogAnswer
from overspill.backends.eci.client import Client
from overspill.backends.eci.status import Group
from overspill.errors import OverspillError
from overspill.model.observation import ContainerObservation, Observation, State, Terminated, Waiting

__all__ = ["Messages"]

log = structlog.get_logger(__name__)

MOST_LINES, MOST_BYTES = 80, 2048
# With more ends than this to be looked into, further ones are told without.
MOST_WAITING = 200
# For how many seconds an end waits for its log at most: that it ended matters more than what it said.
LONGEST_HOLD = 5.0


class _Run(NamedTuple):
    """One run of a container that has failed without a word."""

    group: str
    container: str
    ended_at: float


class Messages:
    """Asks for the ends of logs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Told of each group of which more is known, or nothing more is awaited.
        self.on_more = _tell_nobody
        self._said: dict[str, dict[_Run, str]] = defaultdict(dict)
        self._wanted: dict[_Run, bool] = {}
        self._held: dict[str, asyncio.TimerHandle] = {}
        self._some = asyncio.Event()

    def complete(self, group: Group, seen: Observation) -> Observation:
        """The observation with the messages that are known; others are asked for."""
        if not group.from_logs:
            return seen
        containers = tuple(self._with_words(group, each) for each in seen.containers)
        init = tuple(self._with_words(group, each) for each in seen.init_containers)
        return structs.replace(seen, containers=containers, init_containers=init)

    def holds(self, group_id: str) -> bool:
        """Whether to wait with what is seen of a group."""
        return group_id in self._held

    def forget(self, group_id: str) -> None:
        """The group is gone."""
        self._said.pop(group_id, None)
        self._let_go(group_id)
        self._wanted = {run: last for run, last in self._wanted.items() if run.group != group_id}

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while run := next(iter(self._wanted), None):
                said = await self._ask(run, previous=self._wanted[run])
                if self._wanted.pop(run, None) is not None:
                    self._keep(run, said)
                    if all(each.group != run.group for each in self._wanted):
                        self._release(run.group)

    def _hold(self, group_id: str) -> None:
        if group_id not in self._held:
            loop = asyncio.get_running_loop()
            self._held[group_id] = loop.call_later(LONGEST_HOLD, self._release, group_id)

    def _release(self, group_id: str) -> None:
        self._let_go(group_id)
        self.on_more(group_id)

    def _let_go(self, group_id: str) -> None:
        if timer := self._held.pop(group_id, None):
            timer.cancel()

    def _keep(self, run: _Run, said: str) -> None:
        """A container tells of its last two runs."""
        known = self._said[run.group]
        known[run] = said
        for old in [each for each in known if each.container == run.container][:-2]:
            del known[old]

    def _with_words(self, group: Group, each: ContainerObservation) -> ContainerObservation:
        if each.name not in group.from_logs:
            return each
        # Of a container that waits to run again, the log is that of its last run.
        previous = not isinstance(each.state, Waiting)
        last = each.last_state and self._said_by(group, each.name, each.last_state, previous=previous)
        state = self._said_by(group, each.name, each.state, previous=False)
        return structs.replace(each, state=state, last_state=last)

    def _said_by(self, group: Group, name: str, state: State, *, previous: bool) -> State:
        if not isinstance(state, Terminated) or not state.exit_code or state.message:
            return state
        run = _Run(group.id, name, state.finished_at)
        if run in self._said[group.id]:
            return structs.replace(state, message=self._said[group.id][run])
        if run not in self._wanted and len(self._wanted) < MOST_WAITING:
            self._wanted[run] = previous
            self._hold(group.id)
            self._some.set()
        return state

    async def _ask(self, run: _Run, *, previous: bool) -> str:
        asked = {
            "ContainerGroupId": run.group,
            "ContainerName": run.container,
            "Tail": MOST_LINES,
            "LastTime": previous or None,
        }
        try:
            answer = await self._client.call("DescribeContainerLog", asked, LogAnswer, tries=2)
        except OverspillError as error:
            log.warning("no last words of a container", group=run.group, error=str(error))
            return ""
        return answer.content.encode()[-MOST_BYTES:].decode(errors="replace")


def _tell_nobody(group_id: str) -> None:
    """Until somebody listens."""
