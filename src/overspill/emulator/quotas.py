"""How fast the API may be called, and how much vCPU may be used.

In: calls, with the clock. Out: nothing, or `Refused`. Pure but for the buckets' own counts.
Source: ECI's API limits: 100 at once and 20 a second for create and delete; the rest per minute.
Where two pages give different figures, the lower one is taken, as a client must live with it.
"""

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from overspill.emulator.refusals import Refused
from overspill.errors import Misconfigured

__all__ = ["RATES", "Bucket", "Rate", "Throttle", "parse_rates"]


class Rate(Struct, frozen=True):
    """`burst` calls at once, `per_second` on average."""

    burst: float
    per_second: float


def per_minute(calls: float) -> Rate:
    """As many in a minute, all at once if need be."""
    return Rate(calls, calls / 60)


RATES: dict[str, Rate] = {
    "CreateContainerGroup": Rate(100, 20),
    "DeleteContainerGroup": Rate(100, 20),
    "DescribeContainerGroups": per_minute(2_000),
    "DescribeContainerGroupStatus": per_minute(10_000),
    "DescribeContainerGroupEvents": per_minute(10_000),
    "DescribeMultiContainerGroupMetric": per_minute(500),
    "DescribeContainerGroupMetric": per_minute(500),
    "DescribeContainerLog": per_minute(500),
    "ExecContainerCommand": per_minute(500),
    "RestartContainerGroup": per_minute(500),
    "UpdateContainerGroup": per_minute(500),
    "CreateImageCache": per_minute(200),
    "DescribeRegions": per_minute(10_000),
    "": per_minute(1_000),
}


def parse_rates(texts: Iterable[str], *, actions: Collection[str]) -> dict[str, Rate]:
    """Rates by action, as `CreateContainerGroup=5:20`: calls a second, and at once.

    Raises:
        Misconfigured: a text is none, or its action is not among these.
    """
    rates = {}
    for text in texts:
        action, _, figures = text.partition("=")
        per_second, _, burst = figures.partition(":")
        try:
            rate = Rate(float(burst), float(per_second))
        except ValueError:
            rate = Rate(0, 0)
        if not (rate.burst >= 1 and rate.per_second > 0):  # neither holds for nan
            raise Misconfigured(
                f"{text!r} is no rate such as CreateContainerGroup=5:20: calls a second, and at once"
            )
        if action not in actions:
            raise Misconfigured(f"{text!r} is the rate of no action; there are {', '.join(sorted(actions))}")
        rates[action] = rate
    return rates


class Bucket:
    """A token bucket."""

    def __init__(self, rate: Rate, *, now: float) -> None:
        self.rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one token; 0, or the seconds until there is one."""
        self._tokens = min(self.rate.burst, self._tokens + (now - self._at) * self.rate.per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate.per_second


class Throttle:
    """One bucket per action, made when it is first called."""

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._rates = dict(rates)
        self._buckets: dict[str, Bucket] = {}

    def check(self, action: str, *, now: float) -> None:
        """Count a call.

        Raises:
            Refused: `Throttling`, with how long to wait.
        """
        rate = self._rates.get(action) or self._rates.get("")
        if rate is None:
            return
        bucket = self._buckets.get(action)
        if bucket is None:
            bucket = self._buckets[action] = Bucket(rate, now=now)
        if wait := bucket.take(now):
            raise Refused(
                "Throttling",
                f"Request was denied due to request throttling of {action}.",
                retry_after=max(1, round(wait * 1000)),
            )
