"""What the containers of this node use, sampled within the account's budget.

In: DescribeMultiContainerGroupMetric, 20 groups a call. Out: `PodUsage`. Invariant: nothing is asked
while nobody wants to know; an answer is at most one cadence old, and the cadence is what the budget allows.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.backends.eci.answers import MetricAnswer, MonitorData, at
from overspill.backends.eci.client import Client
from overspill.backends.eci.groups import Groups, Tracked, chunks
from overspill.errors import OverspillError
from overspill.model.observation import Running

__all__ = ["Usage"]

log = structlog.get_logger(__name__)

IDS_PER_CALL = 20
CADENCE = 15.0
# Sampling stops when nobody has asked for this long.
WANTED_SECONDS = 300.0
# What sampling may take of the budget.
PART = 0.8


class Usage:
    """The latest samples."""

    def __init__(
        self, client: Client, groups: Groups, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._groups = groups
        self._clock = clock
        self._samples: dict[str, PodUsage] = {}
        self._asked = asyncio.Event()
        self._wanted_until = 0.0

    def latest(self) -> Sequence[PodUsage]:
        """The newest sample of each pod; none at first, while sampling begins."""
        self._wanted_until = self._clock() + WANTED_SECONDS
        self._asked.set()
        return [self._samples[each.group.id] for each in self._groups if each.group.id in self._samples]

    async def run(self) -> None:
        """Sample while somebody wants to know, until cancelled."""
        while True:
            if self._clock() > self._wanted_until:
                self._asked.clear()
                await self._asked.wait()
            began = self._clock()
            calls = await self._sample()
            affordable = calls / (self._client.rates["metrics"].rate * PART)
            await asyncio.sleep(max(CADENCE, affordable) - min(self._clock() - began, CADENCE / 2))

    async def _sample(self) -> int:
        running = {each.group.id: each for each in self._groups if each.status == "Running"}
        batches = list(chunks(running, IDS_PER_CALL))
        try:
            for ids in batches:
                for data in await self._ask(ids):
                    if data.container_group_id in running:
                        self._keep(running[data.container_group_id], data)
        except OverspillError as error:
            # The samples that there are keep their times, by which their readers know them for old.
            log.warning("no metrics of container groups; asked again later", error=str(error))
        self._samples = {
            group_id: self._samples[group_id] for group_id in running if group_id in self._samples
        }
        return len(batches)

    async def _ask(self, ids: Sequence[str]) -> Sequence[MonitorData]:
        asked = {"ContainerGroupIds": msgspec.json.encode(ids).decode(), "MetricType": "summary"}
        answer = await self._client.call("DescribeMultiContainerGroupMetric", asked, MetricAnswer)
        return answer.monitor_datas

    def _keep(self, tracked: Tracked, data: MonitorData) -> None:
        if not data.records:
            return
        record = data.records[-1]
        sampled_at = at(record.timestamp) or time.time()
        # A container that began after the sample has taken the place of the one that the sample is of.
        started = {
            each.name: each.state.started_at
            for each in (*tracked.seen.containers, *tracked.seen.init_containers)
            if isinstance(each.state, Running) and each.state.started_at <= sampled_at
        }
        self._samples[data.container_group_id] = PodUsage(
            identity=tracked.group.identity,
            sampled_at=sampled_at,
            containers=tuple(
                ContainerUsage(
                    name=each.name,
                    cpu_seconds=each.cpu.usage_core_nano_seconds / 1e9,
                    memory_bytes=each.memory.working_set,
                    started_at=started[each.name],
                )
                for each in record.containers
                if each.name in started
            ),
        )
