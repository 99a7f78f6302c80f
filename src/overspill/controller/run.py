"""The controller's composition root: every part made, wired and run in one TaskGroup.

In: settings. Out: one replica of the controller, until cancelled. Invariant: whatever changes anything runs in the
replica that leads, and begins from what was listed since; what only answers runs in every one.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from overspill.backends.base import Inventory
from overspill.backends.registry import BackendFactory, inventory_of
from overspill.controller.gates import Gates
from overspill.decommission.finisher import Finisher
from overspill.errors import Unsupported
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.events import Events
from overspill.kube.leader import Leader
from overspill.orphans.collector import Collector, Rules
from overspill.orphans.look import cluster_id
from overspill.orphans.record import Record
from overspill.placement.run import WATCHES, Placement
from overspill.placement.write import WRITERS
from overspill.process import patiently
from overspill.serve import health
from overspill.serve.listener import bind
from overspill.settings import ControllerSettings

__all__ = ["run_controller"]

log = structlog.get_logger(__name__)

OTHERS = 10
COMPONENT = "overspill.dev/controller"
Check = Callable[[], str | None]
Work = Callable[[], Coroutine[Any, Any, None]]


async def run_controller(settings: ControllerSettings, factory: BackendFactory | None) -> None:
    """Be one replica of the controller until cancelled; `factory` makes the agents' backend, if that is known.

    Raises:
        Misconfigured: settings, credentials or permissions are not usable.
    """
    await patiently(lambda: _run_once(settings, factory))


async def _run_once(settings: ControllerSettings, factory: BackendFactory | None) -> None:
    config = load_config(settings.kubeconfig or None, settings.context or None)
    identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config, connections=WRITERS + WATCHES + OTHERS))
        # The Lease waits behind nobody, however much there is to do.
        heart = await stack.enter_async_context(Client(config, connections=1))
        events = Events(client, instance=socket.gethostname(), component=COMPONENT)
        leader = Leader(heart, settings.lease_name, namespace=settings.lease_namespace, identity=identity)
        placement = Placement(client, events, sure=lambda: leader.sure)
        of_leader: list[Work] = [placement.run]
        of_every_replica: list[Work] = [events.run]
        inventory = await _inventory(client, settings, factory) if factory else None
        if inventory is not None:
            await stack.enter_async_context(inventory)
            of_leader.append(_collector(client, inventory, events, settings, leader).run)
        finisher = Finisher(
            client,
            events,
            inventory,
            backend=settings.backend,
            region=str(settings.backend_options.get("region", "")),
            bare_pods=settings.bare_pods,
            sure=lambda: leader.sure,
        )
        of_leader.append(finisher.run)
        host, _, port = settings.health_address.rpartition(":")
        admission, checks = _admission(stack, client, settings)
        checks = {"watches": lambda: placement.trouble() if leader.leads else None, **checks}
        of_every_replica += [admission, partial(health.serve, host, int(port), checks)]
        await _together([partial(leader.run, partial(_together, of_leader)), *of_every_replica])


def _admission(
    stack: AsyncExitStack, client: Client, settings: ControllerSettings
) -> tuple[Work, Mapping[str, Check]]:
    """How pods come to wait for their pool: by the webhook, if it is wanted, else by the apiserver itself.

    Raises:
        Misconfigured: the webhook's address cannot be had.
    """
    if not settings.webhook_address:
        gates = Gates(client)
        return gates.run, {"gates": lambda: gates.trouble}
    from overspill.webhook.run import Webhook  # noqa: PLC0415 - 10 MB that only it needs

    bound = bind(settings.webhook_address, what="webhook", flag="--webhook-address")
    webhook = Webhook(client, stack.enter_context(bound), namespace=settings.lease_namespace)
    return webhook.run, webhook.checks


async def _inventory(
    client: Client, settings: ControllerSettings, factory: BackendFactory
) -> Inventory | None:
    """All groups of this cluster at the agents' backend; None where nothing outlives its agent."""
    try:
        return inventory_of(factory, cluster=await cluster_id(client), options=settings.backend_options)
    except Unsupported as error:
        log.info("orphans are not looked for", backend=settings.backend, why=str(error))
        return None


def _collector(
    client: Client, inventory: Inventory, events: Events, settings: ControllerSettings, leader: Leader
) -> Collector:
    rules = Rules(
        backend=settings.backend,
        delete=settings.orphan_policy == "delete",
        quiet_seconds=settings.orphan_quiet_seconds,
        period_seconds=settings.orphan_period_seconds,
        per_minute=settings.orphan_deletions_per_minute,
    )
    record = Record(client, f"{settings.lease_name}-orphans", namespace=settings.lease_namespace)
    return Collector(client, inventory, events, rules, record, sure=lambda: leader.sure)


async def _together(works: Sequence[Work]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work())
