"""What this node's groups cost, as Prometheus series.

In: the groups, those that go. Out: price per second and money spent, by namespace. Invariant: nothing is
added up until somebody scrapes, but what is gone; the first `MOST` namespaces have series of their own, and
all others one together. Prices are those of the pods' annotations; a group of unknown price counts for nothing.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Self

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overspill.backends.eci.groups import Tracked
from overspill.backends.eci.status import ENDED
from overspill.metrics import REGISTRY
from overspill.model.cost import COST_ANNOTATION, CURRENCY_ANNOTATION, PRICE_ANNOTATION

__all__ = ["Spending"]

LABELS = ["namespace", "currency"]
MOST = 50
# No namespace can have this name.
OTHERS = "(others)"
Series = tuple[str, str]
"""Namespace and currency."""


class Spending(Collector):
    """Registered while the backend is connected."""

    def __init__(self, groups: Iterable[Tracked], *, clock: Callable[[], float] = time.time) -> None:
        self._groups = groups
        self._clock = clock
        self._began = 0.0
        self._own: set[str] = set()
        self._gone: dict[Series, Decimal] = defaultdict(Decimal)
        self._told: dict[Series, Decimal] = defaultdict(Decimal)

    def __enter__(self) -> Self:
        self._began = self._clock()
        REGISTRY.register(self)
        return self

    def __exit__(self, *_: object) -> None:
        REGISTRY.unregister(self)

    def describe(self) -> list[Metric]:
        """Nothing, so that nothing is added up at registration, and a second backend may register too."""
        return []

    def gone(self, each: Tracked) -> None:
        """Keep in mind what a group has cost that nobody will tell of any more."""
        self._gone[self._series(each)] += self._cost(each)

    def collect(self) -> Iterator[Metric]:
        """The series as of now."""
        prices: dict[Series, Decimal] = defaultdict(Decimal)
        spent = self._gone.copy()
        for each in self._groups:
            series = self._series(each)
            if each.status not in {"", "Scheduling", *ENDED}:
                prices[series] += _price(each)
            spent[series] += self._cost(each)
        for series, amount in spent.items():
            # A group that has ended may turn out to have done so a little earlier; a counter never falls.
            self._told[series] = max(self._told[series], amount)
        price = GaugeMetricFamily("overspill_price_per_second", "What pods cost now.", labels=LABELS)
        money = CounterMetricFamily(
            "overspill_spend", "What pods have cost that this agent saw.", labels=LABELS
        )
        for family, sums in ((price, prices), (money, self._told)):
            for series, amount in sums.items():
                family.add_metric(series, float(amount))
            yield family

    def _series(self, each: Tracked) -> Series:
        namespace = each.group.identity.namespace
        if namespace not in self._own and len(self._own) < MOST:
            self._own.add(namespace)
        label = namespace if namespace in self._own else OTHERS
        return label, each.seen.annotations.get(CURRENCY_ANNOTATION, "")

    def _cost(self, each: Tracked) -> Decimal:
        """But for what an earlier agent has told of: a counter that begins with it would seem to have grown by it."""
        earlier = max(self._began - each.seen.started_at, 0.0)
        whole = each.seen.annotations.get(COST_ANNOTATION)
        if whole is not None:
            return max(Decimal(whole) - _price(each) * Decimal(str(earlier)), Decimal(0))
        if each.status in {"", "Scheduling", "ScheduleFailed"}:
            return Decimal(0)
        lived = (each.ended_at or self._clock()) - each.seen.started_at
        return _price(each) * Decimal(str(max(lived - earlier, 0.0)))


def _price(each: Tracked) -> Decimal:
    return Decimal(each.seen.annotations.get(PRICE_ANNOTATION, "0"))
