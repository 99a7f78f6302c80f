"""What container groups use, as the two metric actions show it.

In: samples of the engine's cumulative counters. Out: records in the service's units (nanoseconds,
nanocores, bytes). Invariant: a rate needs two samples; until there are, it is the average since the start.
What an engine does not measure (network, disks) is left out, not written as 0.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.emulator.groups import Group
from overspill.emulator.views import moment
from overspill.errors import OverspillError

__all__ = ["SAMPLE_SECONDS", "History"]

log = structlog.get_logger(__name__)

Json = dict[str, Any]
SAMPLE_SECONDS = 15.0
FRESH_SECONDS = 2.0
MOST_SAMPLES = 240  # an hour
GIB = 1 << 30
NANO = 1_000_000_000


class History:
    """The latest samples of each group, of which `measure` takes new ones."""

    def __init__(self, measure: Callable[[], Awaitable[Mapping[str, PodUsage]]]) -> None:
        self._measure = measure
        self._samples: dict[str, deque[PodUsage]] = {}
        self._measured_at = -math.inf
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await self.refresh(SAMPLE_SECONDS)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def refresh(self, seconds: float = FRESH_SECONDS) -> None:
        """Have samples that are not older; whoever asks meanwhile waits for the same ones."""
        async with self._lock:
            if time.monotonic() - self._measured_at < seconds:
                return
            try:
                self.add(await self._measure())
            except OverspillError as error:
                log.info("engine has no metrics now", error=str(error))
            self._measured_at = time.monotonic()

    def add(self, usages: Mapping[str, PodUsage]) -> None:
        """Take new samples; groups without one are forgotten."""
        for gone in set(self._samples) - set(usages):
            del self._samples[gone]
        for group_id, usage in usages.items():
            samples = self._samples.setdefault(group_id, deque(maxlen=MOST_SAMPLES))
            if not samples or samples[-1].sampled_at < usage.sampled_at:
                samples.append(usage)

    def latest(self, group: Group) -> list[Json]:
        """The record of the newest sample; none where there is no sample."""
        samples = self._samples.get(group.id)
        if not samples:
            return []
        return [_record(group, samples[-2] if len(samples) > 1 else None, samples[-1])]

    def between(self, group: Group, *, start: float, end: float, period: float) -> list[Json]:
        """Records of samples in a span, at least `period` seconds apart."""
        records: list[Json] = []
        before: PodUsage | None = None
        for usage in self._samples.get(group.id, ()):
            if before is None or usage.sampled_at - before.sampled_at >= period - 1:
                if start <= usage.sampled_at <= end:
                    records.append(_record(group, before, usage))
                before = usage
        return records


def _record(group: Group, before: PodUsage | None, now: PodUsage) -> Json:
    cpus = [_cpu(c, _same(before, c), before, now, group.cpu) for c in now.containers]
    memories = [_memory(c.memory_bytes, group.memory) for c in now.containers]
    return {
        "Timestamp": moment(now.sampled_at),
        "CPU": {
            "UsageNanoCores": _sum(cpus, "UsageNanoCores"),
            "UsageCoreNanoSeconds": _sum(cpus, "UsageCoreNanoSeconds"),
            "Load": 0,
            "Limit": int(group.cpu * 1000),
        },
        "Memory": _memory(_sum(memories, "WorkingSet"), group.memory),
        "Containers": [
            {"Name": c.name, "CPU": cpu, "Memory": memory}
            for c, cpu, memory in zip(now.containers, cpus, memories, strict=True)
        ],
    }


def _same(before: PodUsage | None, container: ContainerUsage) -> ContainerUsage | None:
    """The container's earlier sample, if it is of the same run."""
    for other in before.containers if before else ():
        if other.name == container.name and other.started_at == container.started_at:
            return other
    return None


def _cpu(
    container: ContainerUsage,
    earlier: ContainerUsage | None,
    before: PodUsage | None,
    now: PodUsage,
    limit: float,
) -> Json:
    if earlier and before:
        used, seconds = container.cpu_seconds - earlier.cpu_seconds, now.sampled_at - before.sampled_at
    else:
        used, seconds = container.cpu_seconds, now.sampled_at - container.started_at
    return {
        "UsageNanoCores": int(max(0.0, used) / seconds * NANO) if seconds > 0 else 0,
        "UsageCoreNanoSeconds": int(container.cpu_seconds * NANO),
        "Load": 0,
        "Limit": int(limit * 1000),
    }


def _memory(used: int, limit_gib: float) -> Json:
    return {
        "AvailableBytes": max(0, int(limit_gib * GIB) - used),
        "UsageBytes": used,
        "Cache": 0,
        "WorkingSet": used,
        "Rss": used,
    }


def _sum(parts: Iterable[Json], name: str) -> int:
    return sum(part[name] for part in parts)
