"""How fast each kind of call may be made: token buckets that learn from throttling.

In: who wants to call. Out: permission, in the order of asking, and an estimate of the wait.
Invariant: over any time the calls let through are at most burst + rate x time x share, and
after a throttling less: the rate is halved at once and grows back by steps (AIMD), for other
programs may be using up the same account.
Source: ECI's limits page (create and delete: burst 100, 20/s) and its quota page (the others, per minute).
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from overspill.backends.base import Demand, Share

__all__ = ["DEFAULTS", "Bucket", "Budget", "Rates", "budget_of"]

LOWEST = 0.05
# Of a token: what sums of floats may be off by, and must not be waited for.
ROUNDING = 1e-6
REGROWTH_PER_SECOND = 0.02
HALVED_AT_MOST_EVERY = 1.0


class Budget(Struct, frozen=True):
    """Calls per second that an account may make, and how many at once after a rest."""

    rate: float
    burst: float


DEFAULTS: dict[str, Budget] = {
    "create": Budget(20, 100),
    "delete": Budget(20, 100),
    "describe": Budget(2000 / 60, 60),
    "status": Budget(10000 / 60, 200),
    "events": Budget(10000 / 60, 200),
    "logs": Budget(500 / 60, 50),
    "exec": Budget(500 / 60, 50),
    "metrics": Budget(500 / 60, 50),
    "update": Budget(500 / 60, 50),
    "other": Budget(1000 / 60, 50),
}
ACTIONS = {
    "CreateContainerGroup": "create",
    "DeleteContainerGroup": "delete",
    "DescribeContainerGroups": "describe",
    "DescribeContainerGroupStatus": "status",
    "DescribeContainerGroupEvents": "events",
    "DescribeContainerLog": "logs",
    "ExecContainerCommand": "exec",
    "DescribeMultiContainerGroupMetric": "metrics",
    "UpdateContainerGroup": "update",
}


def budget_of(action: str) -> str:
    """Which budget an action uses."""
    return ACTIONS.get(action, "other")


class Bucket:
    """One budget's tokens. First come, first served.

    Attributes:
        budget: that of the whole account.
        waiting: calls that wait here.
        made: calls that were ever let through.
    """

    def __init__(self, budget: Budget, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._rate, self._burst = budget.rate, budget.burst
        self._clock = clock
        self._tokens = budget.burst
        self._filled_at = clock()
        self._factor = 1.0
        self._halved_at = -HALVED_AT_MOST_EVERY
        self._not_before = 0.0
        self._turn = asyncio.Lock()
        self.waiting = 0
        self.made = 0

    @property
    def rate(self) -> float:
        """Calls per second that are let through now."""
        return self._rate * self._factor

    def allow(self, *, rate: float, burst: float) -> None:
        """Use these parts of the budget from now on; one call at a time goes through however small they are."""
        self._fill()
        self._rate, self._burst = self.budget.rate * rate, max(self.budget.burst * burst, 1.0)
        self._tokens = min(self._tokens, self._burst)

    def eta(self, ahead: int) -> float:
        """Seconds until a call gets through that has `ahead` others before it, as things stand."""
        self._fill()
        missing = ahead + 1 - self._tokens
        by_tokens = missing / self.rate if missing > ROUNDING else 0.0
        return max(by_tokens, self._not_before - self._clock(), 0.0)

    async def take(self) -> None:
        """Return when a call may be made."""
        self.waiting += 1
        try:
            async with self._turn:
                while (pause := self.eta(0)) > 0:  # noqa: ASYNC110 - tokens come with time, not with an event
                    await asyncio.sleep(pause)
                self._tokens -= 1
                self.made += 1
        finally:
            self.waiting -= 1

    def throttled(self, retry_after: float = 0.0) -> None:
        """ECI had too many calls: go slower, and not before `retry_after` seconds."""
        self._fill()
        now = self._clock()
        self._tokens = min(self._tokens, 0.0)
        self._not_before = max(self._not_before, now + retry_after)
        if now - self._halved_at >= HALVED_AT_MOST_EVERY:
            self._halved_at = now
            self._factor = max(self._factor / 2, LOWEST)

    def _fill(self) -> None:
        now = self._clock()
        elapsed, self._filled_at = now - self._filled_at, now
        self._factor = min(self._factor + elapsed * REGROWTH_PER_SECOND, 1.0)
        self._tokens = min(self._tokens + elapsed * self.rate, self._burst)


class Rates:
    """The buckets of one account and region."""

    def __init__(
        self, budgets: Mapping[str, Budget] = DEFAULTS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = Share()
        self._buckets = {
            name: Bucket(budget, clock=clock) for name, budget in {**DEFAULTS, **budgets}.items()
        }

    def __getitem__(self, name: str) -> Bucket:
        return self._buckets[name]

    @property
    def share(self) -> Share:
        """The part of the account's budgets that this process may use."""
        return self._share

    @share.setter
    def share(self, share: Share) -> None:
        self._share = share
        for name, bucket in self._buckets.items():
            bucket.allow(rate=share.rates.get(name, share.fair), burst=share.fair)

    def demand(self, name: str, *, queued: int) -> Demand:
        """What a budget is asked for, with `queued` calls that have not come to its bucket yet."""
        bucket = self._buckets[name]
        waiting = queued + bucket.waiting
        return Demand(waiting=waiting, made=bucket.made, eta=bucket.eta(waiting), rate=bucket.budget.rate)
