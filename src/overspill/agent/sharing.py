"""The quota shares of agents that use one cloud account: told and read by Leases, nobody decides for another.

In: how many calls this agent's backend wants to make; the Leases of agents of the same quota. Out: the
backend's `share`. Invariant: all agents compute their shares from what stands in the Leases, their own
included, by one formula whose results add up to 1 (`share`). What an agent reads is some seconds old, so
it takes less at once and more only one renewal later, when the others had time to read it as well.
Why and what it costs: docs/decisions/0009.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

import structlog

from overspill import names
from overspill.backends.base import Metered, Share
from overspill.errors import OverspillError
from overspill.kube.client import Client
from overspill.kube.lease import RENEW_EVERY, NodeLease, live_leases
from overspill.metrics import QUOTA_SHARE, QUOTA_WAIT_SECONDS, QUOTA_WAITING

__all__ = ["Sharing", "demands", "share"]

log = structlog.get_logger(__name__)

# The part of a rate that is divided equally at least, whoever asks for how much: nobody starves.
FLOOR = 0.1
# Between two looks whether there is something to share; looking costs nothing.
LOOK_EVERY = 1.0
# An idle agent must know about how many others there are when its first burst comes.
IDLE_READ_EVERY = 60.0


def share(own: int, others: Collection[int], *, capacity: float) -> float:
    """The part of a budget's rate for an agent that asks for `own` calls while others ask for theirs.

    `capacity` is how many all of them may make in the time for which they ask. What nobody asks for is divided
    equally, so that one who was idle can begin before the others know of it.
    """
    agents = 1 + len(others)
    total = own + sum(others)
    free = max(FLOOR, 1 - total / capacity)
    return free / agents + (1 - free) * own / max(total, 1)


def demands(text: str) -> dict[str, int]:
    """`create=12,delete=0` as numbers; what is not of this form is left out."""
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d{1,9})(?:,|$)", text)}


class Sharing:
    """Keeps one backend's share in step with the other agents."""

    def __init__(
        self,
        client: Client,
        lease: NodeLease,
        backend: Metered,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """From now on the Lease tells the backend's demand with every renewal."""
        self._client = client
        self._lease = lease
        self._backend = backend
        self._clock = clock
        self._told: dict[str, int] = {}
        self._read_at = clock()
        self._at_renewal = -1
        self._before = self._now = Share()
        lease.labels = {names.QUOTA_LABEL: backend.quota}
        lease.annotate = self._annotations
        self._show()

    async def run(self) -> None:
        """Read the others' demand after each renewal while there is any of our own, until cancelled."""
        was_busy = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            busy = any(self._wanted().values())
            if self._due(busy=busy, began=busy and not was_busy):
                await self._try_to_read()
            was_busy = busy

    def _due(self, *, busy: bool, began: bool) -> bool:
        renewed = self._lease.renewals != self._at_renewal
        return began or (busy and renewed) or self._clock() - self._read_at > IDLE_READ_EVERY

    async def _try_to_read(self) -> None:
        try:
            await self.read()
        except OverspillError as error:
            log.warning("demand of the other agents not read; the share stays", error=str(error))
            return
        for name, demand in self._backend.demand().items():
            if demand.waiting:
                log.info(
                    "calls wait for the account's quota",
                    budget=name,
                    waiting=demand.waiting,
                    eta=round(demand.eta, 1),
                    share=round(self._part(name), 3),
                )

    async def read(self) -> None:
        """Set the share by what the Leases tell.

        Raises:
            OverspillError: they cannot be read; the share stays as it is.
        """
        renewal = self._lease.renewals
        leases = await live_leases(self._client, label_selector=f"{names.QUOTA_LABEL}={self._backend.quota}")
        own = demands(leases.pop(self._lease.node, {}).get(names.DEMAND_ANNOTATION, ""))
        others = [demands(each.get(names.DEMAND_ANNOTATION, "")) for each in leases.values()]
        self._read_at = self._clock()
        new = Share(
            fair=1 / (1 + len(others)),
            rates={
                name: share(
                    own.get(name, 0),
                    [each.get(name, 0) for each in others],
                    capacity=demand.rate * RENEW_EVERY,
                )
                for name, demand in self._backend.demand().items()
            },
        )
        first = self._at_renewal < 0
        if renewal != self._at_renewal:
            self._before = new if first else self._now
        self._at_renewal, self._now = renewal, new
        self._backend.share = _least(self._before, new)

    def _wanted(self) -> dict[str, int]:
        """Calls that were made since the last renewal, or still wait."""
        return {
            name: demand.made - self._told.get(name, 0) + demand.waiting
            for name, demand in self._backend.demand().items()
        }

    def _annotations(self) -> Mapping[str, str]:
        wanted = self._wanted()
        self._told = {name: demand.made for name, demand in self._backend.demand().items()}
        text = ",".join(f"{name}={number}" for name, number in wanted.items())
        return {names.DEMAND_ANNOTATION: text}

    def _show(self) -> None:
        """Metrics, looked up when somebody asks."""
        for name in self._backend.demand():
            labels = (self._backend.name, name)
            QUOTA_WAITING.labels(*labels).set_function(partial(self._waiting, name))
            QUOTA_WAIT_SECONDS.labels(*labels).set_function(partial(self._eta, name))
            QUOTA_SHARE.labels(*labels).set_function(partial(self._part, name))

    def _waiting(self, name: str) -> float:
        return self._backend.demand()[name].waiting

    def _eta(self, name: str) -> float:
        return self._backend.demand()[name].eta

    def _part(self, name: str) -> float:
        return self._backend.share.rates.get(name, self._backend.share.fair)


def _least(one: Share, other: Share) -> Share:
    """The smaller of each part."""
    rates = {name: min(part, one.rates.get(name, part)) for name, part in other.rates.items()}
    return Share(fair=min(one.fair, other.fair), rates=rates)
