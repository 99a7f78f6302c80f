"""The controller's composition root: leader election, watches, the assigner, run in one TaskGroup.

In: where the cluster is. Out: placed pods, until cancelled. Invariant: what is known was listed after this process
became the leader; a process that no longer leads forgets everything.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from msgspec import Struct

from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.events import Events
from overspill.kube.frames import Batch
from overspill.kube.leader import Leader
from overspill.kube.resources import (
    DEPLOYMENTS,
    NODES,
    PLACEMENT_POLICIES,
    PODS,
    REPLICASETS,
    STATEFULSETS,
)
from overspill.kube.watch import Watch
from overspill.placement.assigner import Assigner
from overspill.placement.nodes import Node
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.workloads import ReplicaSet, Workload
from overspill.placement.write import WRITERS
from overspill.serve import health

__all__ = ["ControllerSettings", "run_controller"]

log = structlog.get_logger(__name__)

WATCHES_AND_MORE = 16
WATCH_AGE_LIMIT = 150.0


class ControllerSettings(Struct, frozen=True, kw_only=True):
    """Settings of the controller.

    Attributes:
        lease: name of the Lease by which its replicas choose who works; two names make two that work.
        namespace: where the Lease is.
    """

    kubeconfig: str = ""
    context: str = ""
    health_address: str = "127.0.0.1:10259"
    namespace: str = "kube-system"
    lease: str = "overspill-controller"


async def run_controller(settings: ControllerSettings) -> None:
    """Be one replica of the controller until cancelled.

    Raises:
        Misconfigured: settings, credentials or permissions are not usable.
    """
    config = load_config(settings.kubeconfig or None, settings.context or None)
    identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    async with (
        Client(config, connections=WRITERS + WATCHES_AND_MORE) as client,
        Client(config, connections=1) as heart,
    ):
        leader = Leader(heart, settings.lease, namespace=settings.namespace, identity=identity)
        controller = Controller(client, leader)
        host, _, port = settings.health_address.rpartition(":")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(leader.run(controller.run), name="leader")
            tasks.create_task(health.serve(host, int(port), {"watches": controller.trouble}), name="health")


class Controller:
    """What this process does while it leads."""

    def __init__(self, client: Client, leader: Leader) -> None:
        self._client = client
        self._leader = leader
        self._watches: list[Watch[Any]] = []

    def trouble(self) -> str | None:
        """Why placement does not work, though this process leads."""
        if not self._leader.leads:
            return None
        age = max((watch.age for watch in self._watches), default=0.0)
        return f"nothing heard from a watch for {age:.0f} s" if age > WATCH_AGE_LIMIT else None

    async def run(self) -> None:
        """Watch and place until cancelled."""
        events = Events(self._client, instance=socket.gethostname(), component="overspill.dev/controller")
        assigner = Assigner(self._client, events, sure=lambda: self._leader.sure)
        pods = Watch(self._client, PODS, kind=Pod, keep=Pod.kept)
        nodes = Watch(self._client, NODES, kind=Node)
        policies = Watch(self._client, PLACEMENT_POLICIES, kind=Policy)
        replica_sets = Watch(self._client, REPLICASETS, kind=ReplicaSet)
        deployments = Watch(self._client, DEPLOYMENTS, kind=Workload)
        stateful_sets = Watch(self._client, STATEFULSETS, kind=Workload)
        self._watches = [pods, nodes, policies, replica_sets, deployments, stateful_sets]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(events.run(), name="events")
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
    tasks.create_task(_follow(watch, changed), name="watch")
    await synced.wait()


async def _follow(watch: Watch[Any], changed: Callable[[Batch[Any]], None]) -> None:
    async for batch in watch.batches():
        changed(batch)
