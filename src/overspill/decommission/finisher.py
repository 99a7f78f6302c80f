"""Finishes what agents could not: empties nodes that are to go and have no agent, and takes them away.

In: virtual Nodes, their StatefulSets, Leases and pods; the container groups of the whole cluster at the backend.
Out: evictions, groups removed at the backend, then pods, Lease and Node deleted. Runs in the controller that leads.
Invariants: a node whose agent lives is left alone; nothing is concluded from a list that was not whole; a Node goes
after two looks in a row that found neither pod nor group.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from overspill import names
from overspill.backends.base import ContainerGroup, Inventory, Located
from overspill.decommission.decide import Heart, rest
from overspill.errors import Conflict, NotFound, OverspillError, Retry
from overspill.kube.client import Client
from overspill.kube.drain import Drain
from overspill.kube.events import Events
from overspill.kube.lease import NODE_LEASES, Lease
from overspill.kube.resources import LEASES, NODES, PODS, STATEFULSETS
from overspill.model.node import NodeObject
from overspill.model.pods import Pod
from overspill.model.scalein import (
    BarePods,
    Leave,
    Member,
    StatefulSet,
    leave,
    marked,
    member_of_node,
    to_do,
)

__all__ = ["Finisher"]

log = structlog.get_logger(__name__)

ROUND = 5.0
SURE_AFTER = 2  # looks


class Finisher:
    """Looks for such nodes, and deals with them one after another."""

    def __init__(
        self,
        client: Client,
        events: Events,
        inventory: Inventory | None,
        *,
        backend: str,
        region: str,
        bare_pods: BarePods,
        sure: Callable[[], bool],
    ) -> None:
        """`inventory` is of `backend`, in `region` if that has regions; None: it cannot be seen.

        `sure` says that no other replica can be at it.
        """
        self._client = client
        self._events = events
        self._inventory = inventory
        self._backend = backend
        self._region = region
        self._bare_pods = bare_pods
        self._sure = sure
        self._place: Mapping[str, str] = {}
        self._hearts: dict[str, Heart] = {}
        self._drains: dict[str, Drain] = {}
        self._clear: dict[str, int] = {}

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        for known in (self._hearts, self._drains, self._clear):
            known.clear()  # seen when this replica led before; another one may have led since
        while True:
            try:
                await self.look()
            except OverspillError as error:
                log.warning("cannot look for nodes that are to go", error=str(error))
            await asyncio.sleep(ROUND)

    async def look(self) -> None:
        """One look, and one step for each node that is to go."""
        going = await self._going()
        for name in (self._drains.keys() | self._clear.keys()) - going.keys():
            self._forget(name)
        groups = await self._groups() if going else []
        self._place = await self._seen_place() if going else {}
        for name in going:
            try:
                await self._finish(name, [each for each in groups if each.identity.node == name])
            except OverspillError as error:
                log.warning("node is not finished yet", node=name, error=str(error))

    async def _going(self, field_selector: str = "") -> dict[str, tuple[NodeObject, Leave]]:
        """Nodes that are to go and have no agent, and why they are to go."""
        selector = f"{names.NODE_TYPE_LABEL}={names.NODE_TYPE}"
        nodes = await self._client.list(
            NODES, label_selector=selector, field_selector=field_selector, kind=NodeObject
        )
        members = {node.metadata.name: member_of_node(node) for node in nodes}
        sets = await self._stateful_sets({each for each in members.values() if each is not None})
        going = {}
        for node in nodes:
            member = members[node.metadata.name]
            found = sets.get(_set_of(member)) if member else None
            why = leave(member, found, marked=marked(node))
            if why is not None and not await self._agent_lives(node.metadata.name):
                going[node.metadata.name] = (node, why)
        return going

    async def _still_going(self, name: str) -> tuple[NodeObject, Leave] | None:
        """As it is now: listing and removing groups, of the nodes before this one as well, may have taken minutes."""
        going = await self._going(f"metadata.name={name}")
        if name not in going:
            self._forget(name)
        return going.get(name)

    def _forget(self, name: str) -> None:
        """Begin anew with a node, should it be to go again."""
        self._drains.pop(name, None)
        self._clear.pop(name, None)

    async def _stateful_sets(self, members: Collection[Member]) -> dict[tuple[str, str], StatefulSet]:
        """Those of these members that are there, by namespace and name."""
        found: dict[tuple[str, str], StatefulSet] = {}
        for namespace, name in {_set_of(member) for member in members}:
            for each in await self._client.list(
                STATEFULSETS,
                namespace=namespace,
                field_selector=f"metadata.name={name}",
                kind=StatefulSet,
            ):
                found[namespace, name] = each
        return found

    async def _agent_lives(self, name: str) -> bool:
        lease = await self._lease(name)
        heart = self._hearts.setdefault(name, Heart())
        return heart.beats(lease.holder, lease.spec.renew_time, now=time.monotonic())

    async def _lease(self, name: str) -> Lease:
        try:
            return await self._client.get(LEASES, name, namespace=NODE_LEASES, kind=Lease)
        except NotFound:
            return Lease()

    async def _groups(self) -> list[ContainerGroup]:
        """Those of the whole cluster."""
        return [*(await self._inventory.list()).groups] if self._inventory else []

    async def _seen_place(self) -> Mapping[str, str]:
        """The labels that tell the nodes whose groups these are from those of other machines."""
        inventory: object = self._inventory  # to mypy no Inventory is Located
        return await inventory.node_labels() if isinstance(inventory, Located) else {}

    async def _finish(self, name: str, groups: list[ContainerGroup]) -> None:
        """One step for one node."""
        self._assert_sure()
        going = await self._still_going(name)
        if going is None:
            return
        node, why = going
        if name not in self._drains:
            self._drains[name] = Drain(self._client, self._events, node, why)
        drain = self._drains[name]
        drain.why = why
        pods = await self._client.list(PODS, field_selector=f"spec.nodeName={name}", kind=Pod)
        todo = to_do(pods, bare_pods=self._bare_pods)
        if not self._sees(node):
            labels = [node.metadata.labels.get(each, "") for each in (names.REGION_LABEL, *self._place)]
            where = " ".join(filter(None, (node.spec.provider_id, *labels)))
            note = f"; its agent is gone, and the controller does not see the backend of {where}"
            await drain.tell(todo, groups=None, note=note)
            return
        await drain.step(node, todo)
        trouble = await self._remove(groups, pods)
        if await self._still_going(name) is None:
            return  # an agent that is back has taken the condition off already
        self._clear[name] = 0 if todo.pods or groups else self._clear.get(name, 0) + 1
        if self._clear[name] >= SURE_AFTER:
            if await self._take_away(node):
                drain.done()
        else:
            note = f"; its agent is gone, the controller goes on{trouble}"
            await drain.tell(todo, groups=len(groups), note=note)

    def _assert_sure(self) -> None:
        if not self._sure():
            raise Retry("another process may lead by now")

    def _sees(self, node: NodeObject) -> bool:
        """Whether its groups would be among those that are listed: elsewhere there are none, whatever there is."""
        labels = node.metadata.labels
        same_place = all(labels.get(name) == value for name, value in self._place.items())
        same_region = not self._region or labels.get(names.REGION_LABEL, self._region) == self._region
        same_backend = node.spec.provider_id.startswith(f"{self._backend}://")
        return self._inventory is not None and same_backend and same_region and same_place

    async def _remove(self, groups: list[ContainerGroup], pods: list[Pod]) -> str:
        """Remove what can be; tells why the last one that cannot be is still there."""
        assert self._inventory is not None
        now, trouble = rest(groups, pods), ""
        for group in now.groups:
            self._assert_sure()
            log.info("removing a container group without an agent", group=group.id, node=group.identity.node)
            removal = self._inventory.remove(group)
            trouble = await _tried(removal, f"container group {group.id}") or trouble
        for pod in now.pods:
            self._assert_sure()
            meta = pod.metadata
            removal = self._client.delete(
                PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0
            )
            trouble = await _tried(removal, f"pod {meta.namespace}/{meta.name}") or trouble
        return trouble

    async def _take_away(self, node: NodeObject) -> bool:
        """Delete Lease and Node; False where somebody has the Lease meanwhile, which then stays, and the Node with it."""
        name = node.metadata.name
        version = (await self._lease(name)).metadata.resource_version
        if await self._agent_lives(name):
            return False
        if version:
            await self._client.delete(LEASES, name, namespace=NODE_LEASES, resource_version=version)
        with contextlib.suppress(NotFound):
            await self._client.delete(NODES, name, uid=node.metadata.uid)
        return True


def _set_of(member: Member) -> tuple[str, str]:
    return member.namespace, member.stateful_set


async def _tried(removal: Awaitable[None], what: str) -> str:
    """Why something could not be removed; "" if it was, or is gone or another by now."""
    try:
        await removal
    except (NotFound, Conflict):
        return ""
    except OverspillError as error:
        log.warning("not removed yet", what=what, error=str(error))
        return f"; {what} cannot be removed: {error}"
    return ""
