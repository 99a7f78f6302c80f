"""The backend `eci`: every pod is a container group of Alibaba Cloud ECI.

In: work specs and questions. Out: sightings and answers. Invariant: all that this object knows can be
listed anew from ECI by tags; what was still queued is given again by the agent. No call of ECI is made
while `create` or `delete` is awaited: both are queued, so that a burst of pods holds up nobody.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from msgspec import structs

from overspill import names
from overspill.backends.base import Demand, Inventory, LogOptions, PodUsage, Process, Share
from overspill.backends.eci import processes
from overspill.backends.eci.capabilities import CAPABILITIES
from overspill.backends.eci.client import Client
from overspill.backends.eci.containerlogs import Logs, require_log
from overspill.backends.eci.creations import Creations, Order
from overspill.backends.eci.credentials import find_credentials
from overspill.backends.eci.events import Events
from overspill.backends.eci.faults import ApiConflict
from overspill.backends.eci.groups import Groups, Tracked, group_of_work
from overspill.backends.eci.messages import Messages
from overspill.backends.eci.options import read_options
from overspill.backends.eci.placements import Placements
from overspill.backends.eci.poll import Poller
from overspill.backends.eci.prices import kind_of_work
from overspill.backends.eci.quotes import Quotes
from overspill.backends.eci.rates import Rates
from overspill.backends.eci.removals import Removals
from overspill.backends.eci.renewals import Renewals
from overspill.backends.eci.spending import Spending
from overspill.backends.eci.tags import node_tags
from overspill.backends.eci.translate import check
from overspill.backends.eci.usage import Usage
from overspill.backends.eci.volumes import volume
from overspill.backends.eci.zones import VPC_VERSION, labels_of, zones_of
from overspill.backends.feed import Feed
from overspill.backoff import backoff
from overspill.errors import NotFound, Rejected, Retry, Throttled, Unsupported
from overspill.model.observation import (
    ContainerObservation,
    Gone,
    Happened,
    Observation,
    Running,
    Sighting,
    Terminated,
    Waiting,
)
from overspill.model.work import Container, Files, Identity, Resources, Volume, WorkSpec

__all__ = ["EciBackend"]

log = structlog.get_logger(__name__)

# Told as waiting only if it takes longer than a pod usually does.
LONG_WAIT = 2.0
# A group that could not be scheduled is removed and asked for anew after this, longer each time; seconds.
RETRY_FIRST, RETRY_CAP = 10.0, 300.0
TIDY_EVERY = 1.0
# Reason of InstanceProvisioned=False while ECI does not make a group as it is, or as the account is.
REFUSED = "Refused"
SILENCE = 60.0
# How long a start waits for ECI; the agent's health is served afterwards.
PATIENCE = 15.0


class EciBackend:
    """Container groups of one virtual node.

    Attributes:
        quota: names what the agents of one region share. Their accounts are taken to be one, for keys do not tell.
    """

    name = "eci"
    capabilities = CAPABILITIES
    # Asked without an account as well: `overspill check` tells what would be refused.
    check = staticmethod(check)

    def __init__(self, *, cluster: str, node: str, options: Mapping[str, Any]) -> None:
        self._options = read_options(options)
        self._cluster = cluster
        self._node = node
        self.quota = f"eci.{self._options.region}"
        self._rates = Rates(self._options.budgets)
        self._credentials = find_credentials(os.environ, region=self._options.region)
        self._client = Client(
            endpoint=self._options.host,
            region=self._options.region,
            credentials=self._credentials,
            rates=self._rates,
        )
        self._feed = Feed()
        self._removals = Removals(self._client)
        self._renewals = Renewals(self._client, tell=self._feed.publish)
        self._quotes = Quotes(self._client)
        self._messages = Messages(self._client)
        self._groups = Groups(
            self._feed,
            remove=self._removals.put,
            quote=self._quotes.of,
            complete=self._messages.complete,
            holds=self._messages.holds,
        )
        self._orders_seen: dict[Identity, Observation] = {}
        self._creations = Creations(self._client, Placements(self._options), self)
        self._poller = Poller(
            self._client,
            self._groups,
            node_tags=node_tags(cluster, node),
            busy_seconds=self._options.poll_seconds,
        )
        self._logs = Logs(self._client)
        self._events = Events(
            self._client,
            self._groups,
            tell=self._feed.publish,
            busy_seconds=self._options.poll_seconds,
        )
        self._usage = Usage(self._client, self._groups)
        self._spending = Spending(self._groups)
        self._messages.on_more = self._groups.look_again
        self._groups.on_known, self._groups.on_gone = self._known, self._gone
        self._groups.on_left = self._removals.forget
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Connect, find this node's groups, and begin to look after them.

        Raises:
            Misconfigured: ECI does not let us.
        """
        await self._client.__aenter__()
        try:
            await self._find_groups()
        except BaseException:
            await self._client.__aexit__(None, None, None)
            raise
        self._spending.__enter__()
        self._tasks = await asyncio.TaskGroup().__aenter__()
        for name, work in (
            ("poll", self._poller.run(busy=lambda: bool(self._creations.orders))),
            ("create", self._creations.run()),
            ("renew", self._renewals.run(pod=self._pod_of)),
            ("delete", self._removals.run(accepted=self._groups.removal_answered)),
            ("usage", self._usage.run()),
            ("events", self._events.run()),
            ("messages", self._messages.run()),
            ("quotes", self._quotes.run(tell=self._groups.quoted)),
            ("tidy", self._tidy()),
        ):
            self._running.append(self._tasks.create_task(work, name=f"eci {name}"))
        return self

    def _gone(self, tracked: Tracked) -> None:
        self._spending.gone(tracked)
        self._messages.forget(tracked.group.id)
        self._renewals.forget(tracked.group.id)

    async def _find_groups(self) -> None:
        """Where ECI does not tell, `list` finds them later: an agent that ended would be started ever more seldom."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._poller.sweep()
                await self._quotes.catch_up(tell=self._groups.quoted)
        except (Retry, Rejected, TimeoutError) as error:
            log.warning(
                "container groups cannot be listed yet",
                node=self._node,
                error=str(error) or "no answer in time",
            )
        else:
            log.info("container groups found", node=self._node, groups=len(self._groups))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking; the groups go on."""
        self._spending.__exit__()
        for task in self._running:
            task.cancel()
        try:
            if self._tasks is not None:
                await self._tasks.__aexit__(None, None, None)
        finally:
            await self._client.__aexit__(None, None, None)

    async def node_labels(self) -> Mapping[str, str]:
        """Region and zone of the pods."""
        region, host = self._options.region, self._options.vpc_host
        if not host:
            return labels_of(region, set())
        client = Client(
            endpoint=host,
            region=region,
            credentials=self._credentials,
            rates=self._rates,
            version=VPC_VERSION,
        )
        async with client as vpc:
            return labels_of(region, await zones_of(vpc, self._options.v_switches))

    # --- what the account allows ---

    @property
    def share(self) -> Share:
        """The part of the account's budgets that this agent may use."""
        return self._rates.share

    @share.setter
    def share(self, share: Share) -> None:
        self._rates.share = share

    def demand(self) -> Mapping[str, Demand]:
        """Groups to make and to remove."""
        return {
            "create": self._rates.demand("create", queued=self._creations.queued),
            "delete": self._rates.demand("delete", queued=self._removals.queued),
        }

    # --- pods come and go ---

    async def create(self, work: WorkSpec) -> None:
        """Queue a pod's group.

        Raises:
            Unsupported: names the fields that ECI cannot honour.
        """
        warnings = check(work)
        uid = work.identity.uid
        tracked = self._groups.of_pod(uid)
        if uid in self._creations.orders or (tracked is not None and not tracked.group.deleting):
            return
        eta = self.demand()["create"].eta
        order = self._creations.put(work)
        wait = f"in the queue for ECI, about {eta:.0f} s" if eta > LONG_WAIT else ""
        self._tell_order(order, Waiting("ContainerCreating", wait))
        for warning in warnings:
            self._feed.publish(Happened(work.identity, "", names.NOT_HONOURED, warning))
        self._poller.hurry()

    async def delete(self, identity: Identity, *, grace_seconds: int) -> None:  # noqa: ARG002 - ECI takes it at creation only
        """Queue the removal of a pod's group.

        Raises:
            NotFound: there is none.
        """
        order = self._creations.orders.get(identity.uid)
        if order is None:
            self._remove(self._find(identity))
        elif order.work.identity == identity:
            if self._creations.cancel(identity.uid):
                self.dropped(order)
            else:
                self._tell(structs.replace(self._orders_seen[identity], deleting=True))
        else:
            raise NotFound(f"no container group of pod {identity.namespace}/{identity.name}")

    def _remove(self, tracked: Tracked) -> None:
        self._groups.mark_deleting(tracked)
        self._removals.put(tracked.group.id)
        self._poller.hurry()

    # --- what becomes of orders ---

    def created(self, order: Order, group_id: str) -> None:
        """There is a group."""
        group = group_of_work(order.work, group_id, region=self._options.region, created_at=order.asked_at)
        kind = kind_of_work(order.work, region=self._options.region)
        self._settled(order, self._groups.add(group, kind=kind))

    def _known(self, tracked: Tracked) -> None:
        """A listing may have a group before its creation is answered, or although that is answered by an error."""
        order = self._creations.orders.get(tracked.group.identity.uid)
        if order is not None and order.work.identity == tracked.group.identity:
            self._creations.settle(order, tracked.group.id)
            self._settled(order, tracked)

    def _settled(self, order: Order, tracked: Tracked) -> None:
        self._orders_seen.pop(order.work.identity, None)
        if order.cancelled:
            self._remove(tracked)

    def no_room(self, order: Order, reason: str, message: str) -> None:
        """There is none yet."""
        self._tell_order(
            order, Waiting("ContainerCreating"), reason=reason, message=message, provisioned=False
        )

    def refused(self, order: Order, message: str) -> None:
        """ECI does not make it."""
        self._tell_order(
            order, Waiting("ContainerCreating"), reason=REFUSED, message=message, provisioned=False
        )

    def unanswered(self, order: Order, message: str) -> None:
        """ECI has not said whether there is one, so that nothing is known of room for it."""
        self._tell_order(order, Waiting("ContainerCreating", message))

    def dropped(self, order: Order) -> None:
        """It was taken back in time."""
        last = self._orders_seen.pop(order.work.identity, None)
        self._feed.publish(Gone(order.work.identity, last))

    def _tell_order(self, order: Order, waiting: Waiting, **more: Any) -> None:
        work = order.work
        before = Waiting("PodInitializing") if work.init_containers else waiting
        self._tell(
            Observation(
                identity=work.identity,
                started_at=order.asked_at,
                containers=tuple(ContainerObservation(c.name, waiting, c.image) for c in work.containers),
                init_containers=tuple(
                    ContainerObservation(c.name, before, c.image, sidecar=c.restart_policy == "Always")
                    for c in work.init_containers
                ),
                deleting=order.cancelled,
                **more,
            )
        )

    def _tell(self, seen: Observation) -> None:
        self._orders_seen[seen.identity] = seen
        self._feed.publish(seen)

    # --- what is seen ---

    async def list(self) -> Sequence[Observation]:
        """Every pod of this node, by a listing that was whole."""
        await self._poller.sweep()
        return [*(each.seen for each in self._groups), *self._orders_seen.values()]

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of what changed."""
        return self._feed.watch()

    async def _tidy(self) -> None:
        """Give up groups that ECI could not schedule; the agent asks for another attempt once they are gone."""
        while True:
            now = time.monotonic()
            for each in self._groups:
                if each.ended_since is None or each.group.fail_fast or each.group.deleting:
                    continue
                wait = backoff(each.group.identity.attempt + 1, first=RETRY_FIRST, cap=RETRY_CAP)
                if now - each.ended_since >= wait:
                    log.info("container group that found no room is given up", group=each.group.id)
                    self._remove(each)
            await asyncio.sleep(TIDY_EVERY)

    # --- what is asked of running pods ---

    async def refresh(self, identity: Identity, volumes: Mapping[str, Volume]) -> None:
        """Have new files sent, soon; ECI replaces them in the running group. One that is not made yet is made with them.

        Raises:
            NotFound: there is no such pod.
        """
        if identity.uid in self._creations.orders:
            self._creations.renew(identity.uid, volumes)
            return
        tracked = self._find(identity)
        changed = {name: volume(name, each) for name, each in volumes.items() if isinstance(each, Files)}
        if changed:
            self._renewals.put(tracked.group.id, changed)

    def _pod_of(self, group_id: str) -> Identity | None:
        tracked = self._groups.by_id(group_id)
        return tracked.group.identity if tracked else None

    async def add_ephemeral(self, identity: Identity, containers: Sequence[Container]) -> None:
        """Refuse: a container group of ECI has the containers that it was made with."""
        self._find(identity)
        names = ", ".join(container.name for container in containers)
        raise Unsupported(f"ECI adds no containers to a running container group: {names}")

    async def resize(self, identity: Identity, resources: Mapping[str, Resources]) -> None:
        """Refuse: ECI starts the containers of a group anew to change their size, and under another price."""
        self._find(identity)
        raise Unsupported(f"ECI keeps the size of containers that run: {', '.join(resources)}")

    async def change_images(self, identity: Identity, images: Mapping[str, str]) -> None:
        """Refuse: ECI starts all containers of a group anew for it, also those that are to go on."""
        if identity.uid not in self._creations.orders:
            self._find(identity)
        raise Unsupported(f"ECI keeps the images that a group was made with: image of {', '.join(images)}")

    async def logs(self, identity: Identity, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's output."""
        tracked = self._find(identity)
        require_log(_container(tracked.seen, container), pod=identity.name, previous=options.previous)
        pieces = self._logs.read(
            tracked.group.id, container, options, ended=lambda: _has_ended(tracked, container)
        )
        try:
            async for piece in pieces:
                yield piece
        except ApiConflict as error:
            raise Rejected(f'container "{container}" in pod "{identity.name}": {error}') from error

    async def exec(
        self, identity: Identity, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> Process:
        """Start a command in a running container."""
        tracked = self._find(identity)
        if not isinstance(_container(tracked.seen, container).state, Running):
            raise NotFound(f'container "{container}" in pod "{identity.name}" is not running')
        return await processes.run(self._client, tracked.group.id, container, command, stdin=stdin, tty=tty)

    async def attach(self, identity: Identity, container: str, *, stdin: bool, tty: bool) -> Process:  # noqa: ARG002 - refused
        """ECI has no attach.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("ECI cannot attach to a container; use exec or logs", fields=("attach",))

    async def port_forward(self, identity: Identity, port: int) -> Process:
        """Connect to the pod's address, which must be reachable from this agent."""
        tracked = self._find(identity)
        if not tracked.seen.ips:
            raise NotFound(f"pod {identity.name!r} has no address yet")
        return await processes.connect(tracked.seen.ips[0], port)

    async def usage(self) -> Sequence[PodUsage]:
        """The latest samples."""
        return self._usage.latest()

    async def health(self) -> None:
        """Return when ECI answers; one throttled call is no trouble while others get through."""
        try:
            await self._poller.ask()
        except Throttled:
            self._poller.check(silence=SILENCE)

    @staticmethod
    def inventory(*, cluster: str, options: Mapping[str, Any]) -> Inventory:
        """The container groups of a whole cluster."""
        from overspill.backends.eci.inventory import EciInventory  # noqa: PLC0415 - no agent needs it

        return EciInventory(cluster=cluster, options=options)

    def _find(self, identity: Identity) -> Tracked:
        tracked = self._groups.of_pod(identity.uid)
        if tracked is None or tracked.group.identity != identity:
            raise NotFound(
                f"no container group of pod {identity.namespace}/{identity.name}, attempt {identity.attempt}"
            )
        return tracked


def _container(seen: Observation, name: str) -> ContainerObservation:
    for each in (*seen.containers, *seen.init_containers):
        if each.name == name:
            return each
    raise NotFound(f'container "{name}" not found in pod "{seen.identity.name}"')


def _has_ended(tracked: Tracked, name: str) -> bool:
    seen = _container(tracked.seen, name)
    return isinstance(seen.state, Terminated) or tracked.group.deleting
