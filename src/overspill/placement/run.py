"""What the leader does for placement: watches, the assigner, run in one TaskGroup.

In: a client. Out: placed pods, until cancelled. Invariant: what is known was listed after this process became the
leader; a process that no longer leads forgets everything.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from overspill.kube.client import Client
from overspill.kube.events import Events
from overspill.kube.frames import Batch
from overspill.kube.resources import (
    DEPLOYMENTS,
    NODES,
    PLACEMENT_POLICIES,
    PODS,
    REPLICASETS,
    STATEFULSETS,
)
from overspill.kube.watch import Watch, silence
from overspill.placement.assigner import Assigner
from overspill.placement.nodes import Node
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.workloads import ReplicaSet, Workload

__all__ = ["WATCHES", "Placement"]

log = structlog.get_logger(__name__)

WATCHES = 6


class Placement:
    """Places pods while it runs; `sure` says whether no other replica can be doing so."""

    def __init__(self, client: Client, events: Events, *, sure: Callable[[], bool]) -> None:
        self._client = client
        self._events = events
        self._sure = sure
        self._watches: list[Watch[Any]] = []

    def trouble(self) -> str | None:
        """Why it does not work, though it runs."""
        return silence(self._watches)

    async def run(self) -> None:
        """Watch and place until cancelled."""
        assigner = Assigner(self._client, self._events, sure=self._sure)
        pods = Watch(self._client, PODS, kind=Pod, keep=Pod.kept)
        nodes = Watch(self._client, NODES, kind=Node)
        policies = Watch(self._client, PLACEMENT_POLICIES, kind=Policy)
        replica_sets = Watch(self._client, REPLICASETS, kind=ReplicaSet)
        deployments = Watch(self._client, DEPLOYMENTS, kind=Workload)
        stateful_sets = Watch(self._client, STATEFULSETS, kind=Workload)
        self._watches = [pods, nodes, policies, replica_sets, deployments, stateful_sets]
        async with asyncio.TaskGroup() as tasks:
            # Policies and ReplicaSets first: a pod is of no policy as long as that one is not known.
            await _follow_synced(tasks, policies, assigner.policies_changed, assigner.policies.synced)
            await _follow_synced(
                tasks, replica_sets, assigner.replica_sets_changed, assigner.replica_sets.synced
            )
            await _follow_synced(tasks, nodes, assigner.nodes_changed, assigner.nodes.synced)
            for workloads, cache in (
                (deployments, assigner.deployments),
                (stateful_sets, assigner.stateful_sets),
            ):
                changed = partial(assigner.workloads_changed, cache)
                await _follow_synced(tasks, workloads, changed, cache.synced)
            await _follow_synced(tasks, pods, assigner.pods_changed, assigner.pods.synced)
            log.info("everything is listed", pods=len(assigner.pods), policies=len(assigner.policies))
            tasks.create_task(assigner.run(), name="assigner")


async def _follow_synced(
    tasks: asyncio.TaskGroup, watch: Watch[Any], changed: Callable[[Batch[Any]], None], synced: asyncio.Event
) -> None:
    """Follow a watch; returns when its whole state was known once."""
    tasks.create_task(watch.follow(changed), name="watch")
    await synced.wait()
