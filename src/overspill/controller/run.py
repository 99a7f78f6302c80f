"""The controller's composition root: every part made, wired and run in one TaskGroup.

In: settings. Out: one replica of the controller, until cancelled. Invariant: whatever changes anything runs in the
replica that leads, and begins from what was listed since; what only answers runs in every one.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog
from msgspec import Struct

from overspill.backends.base import Inventoried, Inventory
from overspill.backends.registry import BackendFactory
from overspill.errors import Unsupported
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.events import Events
from overspill.kube.leader import Leader
from overspill.kube.resources import NAMESPACES
from overspill.model.pods import Meta
from overspill.placement.run import WATCHES, Placement
from overspill.placement.write import WRITERS
from overspill.serve import health
from overspill.settings import ControllerSettings

__all__ = ["cluster_id", "open_inventory", "run_controller"]

log = structlog.get_logger(__name__)

OTHERS = 10
COMPONENT = "overspill.dev/controller"
Work = Callable[[], Coroutine[Any, Any, None]]


class _Named(Struct, frozen=True):
    metadata: Meta


async def run_controller(settings: ControllerSettings, factory: BackendFactory | None) -> None:
    """Be one replica of the controller until cancelled; `factory` makes the agents' backend, if that is known.

    Raises:
        Misconfigured: settings, credentials or permissions are not usable.
    """
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
        await open_inventory(stack, client, settings, factory)
        host, _, port = settings.health_address.rpartition(":")
        checks = {"watches": lambda: placement.trouble() if leader.leads else None}
        of_every_replica.append(partial(health.serve, host, int(port), checks))
        await _together([partial(leader.run, partial(_together, of_leader)), *of_every_replica])


async def open_inventory(
    stack: AsyncExitStack, client: Client, settings: ControllerSettings, factory: BackendFactory | None
) -> Inventory | None:
    """All of this cluster's groups at the agents' backend; None where nothing can become an orphan.

    Raises:
        Misconfigured: the backend's options or credentials are not usable.
    """
    if factory is None:
        log.info("no backend is set: orphans are not looked for")
        return None
    if not isinstance(factory, Inventoried):
        log.warning(
            "backend lists no groups of a whole cluster: orphans are not seen", backend=settings.backend
        )
        return None
    try:
        inventory = factory.inventory(cluster=await cluster_id(client), options=settings.backend_options)
    except Unsupported as error:
        log.info("orphans are not looked for", backend=settings.backend, why=str(error))
        return None
    return await stack.enter_async_context(inventory)


async def cluster_id(client: Client) -> str:
    """By which the agents of this cluster mark what is theirs."""
    kube_system = await client.get(NAMESPACES, "kube-system", kind=_Named)
    return kube_system.metadata.uid


async def _together(works: Sequence[Work]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work())
