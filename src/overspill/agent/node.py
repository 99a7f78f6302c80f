"""The Node object: registered or adopted, kept as it should be, its status told.

In: a profile, a health verdict. Out: the Node in the apiserver. Invariant: labels and taints
that are not the agent's are never touched; a status is written when it changed, for another message
alone every 10 s at most, or every five minutes.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import structs

from overspill.backoff import backoff
from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Retry
from overspill.kube.client import MERGE, STRATEGIC, Client
from overspill.kube.resources import NODES
from overspill.kube.watch import Change, Watch
from overspill.model.node import Health, NodeObject, NodeProfile, new_node, repair_patch, status_patch
from overspill.model.scalein import decommission_label, marked

__all__ = ["VirtualNode"]

log = structlog.get_logger(__name__)

# The kubelet's numbers: status computed every 10 s, told when changed or every 5 min.
CHECK_EVERY = 10.0
TELL_EVERY = 300.0
REPAIR_AGAIN = 1.0


class VirtualNode:
    """Keeps one Node object in the apiserver.

    Attributes:
        found: as it was last seen there.
    """

    def __init__(
        self,
        client: Client,
        profile: NodeProfile,
        *,
        check: Callable[[], Awaitable[str]],
        groups: Callable[[], int],
        changed: Callable[[NodeObject], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`check` returns "" when the node can run pods, else why not; `changed` is told what others did to it.

        `groups` counts its container groups.
        """
        self._client = client
        self._profile = profile
        self._check = check
        self._groups = groups
        self._changed = changed
        self._clock = clock
        now = clock()
        self._health = Health(
            ready=False, since=now, started=now, message="agent is starting", groups_since=now
        )
        self._told: Health | None = None  # None: nothing yet, or not what the Node says
        self.found = NodeObject()

    async def register(self, *, cordoned: bool = False) -> None:
        """Create the Node, as one of ours that is `cordoned` or not, or adopt and repair the one that is there."""
        self.found = await self._create_or_get(cordoned=cordoned, labels={})
        await self._repair(self.found)

    async def remove(self) -> None:
        """Delete the Node: it is to go for good. Nothing of `run` may go on."""
        with contextlib.suppress(NotFound, Conflict):
            await self._client.delete(NODES, self._profile.name, uid=self.found.metadata.uid)
        log.info("node deleted", node=self._profile.name)

    async def run(self) -> None:
        """Tell the status and repair drift until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell(), name="node status")
            tasks.create_task(self._guard(), name="node drift")

    async def _tell(self) -> None:
        told_at = 0.0
        while True:
            health = self._judge(await self._check())
            if _due(health, self._told, age=self._clock() - told_at):
                self._told = health  # before it is written: what is seen meanwhile counts
                try:
                    await self._write_status(health)
                except OverspillError as error:
                    if isinstance(error, Misconfigured) and not told_at:
                        raise  # what was never right ends a start by name
                    log.warning("node status not written", error=str(error))
                    self._told = None
                else:
                    told_at = self._clock()
            await asyncio.sleep(CHECK_EVERY if health.ready else CHECK_EVERY / 10)

    async def _guard(self) -> None:
        watch = Watch(
            self._client,
            NODES,
            kind=NodeObject,
            field_selector=f"metadata.name={self._profile.name}",
            tick=1.0,
        )
        async for batch in watch.batches():
            # A whole list without it: the Node was deleted while nothing was heard.
            gone = batch.replace and not batch.changes
            for change in [Change("DELETED", self.found)] if gone else batch.changes:
                for failures in itertools.count(1):
                    if await self._tended(change):
                        break
                    await asyncio.sleep(backoff(failures, first=REPAIR_AGAIN, cap=CHECK_EVERY))

    async def _tended(self, change: Change[NodeObject]) -> bool:
        """Repair what somebody did; False when that has to be tried again: an agent does not end for it."""
        try:
            if change.type == "DELETED":
                log.warning("node was deleted; registering it again", node=self._profile.name)
                # What is to repair comes by the watch; that it is to go stood on the one that was deleted.
                self.found = await self._create_or_get(
                    cordoned=marked(self.found), labels=decommission_label(self.found)
                )
                await self._write_status(self._health)
            else:
                self.found = change.object
                self._changed(change.object)
                self._compare(change.object)
                await self._repair(change.object)
        except OverspillError as error:
            log.warning("node not repaired; trying again", node=self._profile.name, error=str(error))
            # What is refused is tried with what comes next: every status that is written comes here, too.
            return change.type != "DELETED" and not isinstance(error, Retry)
        return True

    def _compare(self, found: NodeObject) -> None:
        """Have the status told again if another says Ready: the control plane does of a node that it did not hear."""
        ready = found.condition("Ready")
        if self._told is not None and ready is not None and ready.status != str(self._told.ready):
            log.info("node status is told again", node=self._profile.name, found=ready.status)
            self._told = None

    async def _create_or_get(self, *, cordoned: bool, labels: Mapping[str, str]) -> NodeObject:
        try:
            body = new_node(self._profile, cordoned=cordoned, labels=labels)
            return await self._client.create(NODES, body, kind=NodeObject)
        except Conflict:
            return await self._client.get(NODES, self._profile.name, kind=NodeObject)

    async def _repair(self, found: NodeObject) -> None:
        patch = repair_patch(self._profile, found)
        if patch is None or found.metadata.deletion_timestamp:
            return
        try:
            await self._client.patch(NODES, self._profile.name, patch, content_type=MERGE)
        except (Conflict, NotFound):
            return  # newer than what we saw; the watch brings it
        log.info("node repaired", node=self._profile.name, patched=sorted(patch))

    async def _write_status(self, health: Health) -> None:
        patch = status_patch(self._profile, health, groups=self._groups(), now=self._clock())
        await self._client.patch(
            NODES, self._profile.name, patch, subresource="status", content_type=STRATEGIC
        )

    def _judge(self, trouble: str) -> Health:
        ready = not trouble
        if ready != self._health.ready:
            self._health = structs.replace(self._health, ready=ready, since=self._clock())
            log.info("node readiness changed", node=self._profile.name, ready=ready, reason=trouble)
        groups = self._groups() > 0
        if groups != self._health.groups:
            self._health = structs.replace(self._health, groups=groups, groups_since=self._clock())
        self._health = structs.replace(self._health, message=trouble)
        return self._health


def _due(health: Health, told: Health | None, *, age: float) -> bool:
    """Whether to tell it; `told` was told `age` seconds ago. A message alone can wait: some vary with every check."""
    if told is None or (health.ready, health.groups) != (told.ready, told.groups):
        return True
    return age >= (TELL_EVERY if health == told else CHECK_EVERY)
