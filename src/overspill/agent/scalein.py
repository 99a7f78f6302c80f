"""How a virtual node ends: whether it is to go for good, and then the whole way there.

In: the wish that the agent ends (a SIGTERM), its StatefulSet, Node and pods, the backend. Out: an emptied node, or
one that was left alone; in the end the answer whether the Node is to be deleted.
Invariants: nothing is touched unless a reason to go was read at the apiserver; while there is a container group
the agent stays fully at work; the last word that nothing is left is a list of each side, of the pods and of
the groups, taken when the node had been cordoned for a while.
"""

import asyncio
import contextlib
import time
from enum import Enum

import structlog
from msgspec import Struct

from overspill.agent.node import VirtualNode
from overspill.agent.pods import Pods
from overspill.errors import NotFound, OverspillError
from overspill.kube.client import MERGE, Client
from overspill.kube.drain import Drain, reference
from overspill.kube.events import Events
from overspill.kube.resources import NODES, PODS, STATEFULSETS
from overspill.model.node import NodeObject
from overspill.model.pods import Pod
from overspill.model.scalein import (
    BarePods,
    Leave,
    Member,
    StatefulSet,
    condition_patch,
    half_done,
    leave,
    marked,
    member_of_pod,
    to_do,
    uncordon_patch,
)
from overspill.names import DECOMMISSIONING
from overspill.settings import AgentSettings

__all__ = ["Place", "ScaleIn", "Step", "Unsure", "decide", "find_place"]

log = structlog.get_logger(__name__)

ROUND = 1.0
READ_TIMEOUT = 5.0
# An agent that cannot read whether it is wanted ends after this as if it were: a successor finds its pods
# again, and where there is none the controller finishes.
UNSURE_LIMIT = 60.0
# An Event that meets a passing error is tried again after 5 s; nothing waits for this process meanwhile.
TELL_TIMEOUT = 10.0


class Place(Struct, frozen=True):
    """Where the agent's own pod is, if it has one: `ending` when that pod is being deleted already."""

    member: Member | None = None
    ending: bool = False


class Unsure(Struct, frozen=True):
    """Whether the node is to go could not be read."""

    why: str


class Step(Enum):
    """What an agent that was told to end does next."""

    ASK_AGAIN = "ask again"
    END = "end and touch nothing"
    CANCEL = "take the cordon back and end"
    DRAIN = "empty the node"


def decide(reading: Leave | Unsure | None, *, draining: bool, waited: float) -> Step:
    """The next step; `reading` is why the node is to go, None if it is to stay; `waited` counts seconds."""
    if isinstance(reading, Unsure):
        if draining:
            return Step.DRAIN
        return Step.ASK_AGAIN if waited < UNSURE_LIMIT else Step.END
    if reading is None:
        return Step.CANCEL if draining else Step.END
    return Step.DRAIN


async def find_place(client: Client, settings: AgentSettings) -> Place:
    """Look the agent's own pod up: who made it, and whether a SIGTERM came before anybody could hear it."""
    if not settings.pod_namespace:
        return Place()
    found = await client.list(
        PODS,
        namespace=settings.pod_namespace,
        field_selector=f"metadata.name={settings.node_name}",
        kind=Pod,
    )
    for pod in found:
        if pod.metadata.uid == settings.pod_uid:
            return Place(member_of_pod(pod), ending=pod.metadata.deletion_timestamp is not None)
    log.warning(
        "this agent's own pod is not found: it does not know its StatefulSet", node=settings.node_name
    )
    return Place()


class ScaleIn:
    """One agent's way out."""

    def __init__(
        self,
        client: Client,
        *,
        node: VirtualNode,
        pods: Pods,
        events: Events,
        member: Member | None,
        bare_pods: BarePods,
    ) -> None:
        self._client = client
        self._node = node
        self._pods = pods
        self._events = events
        self._member = member
        self._bare_pods = bare_pods
        self._drain: Drain | None = None

    async def run(self, asked: asyncio.Event) -> bool:
        """Wait for the wish, then do what it takes; returns whether the Node is to go, with nothing left of it."""
        await self._settle(asked)
        began = time.monotonic()
        while True:
            reading = await self._read()
            step = decide(reading, draining=self._drain is not None, waited=time.monotonic() - began)
            if step is Step.END:
                log.info("ending; pods go on", node=self._name)
                return False
            if step is Step.CANCEL and await self._cancelled():
                return False
            if step is Step.DRAIN and await self._emptied(self._begun(reading)):
                return True
            await asyncio.sleep(ROUND)

    @property
    def _name(self) -> str:
        return self._node.found.metadata.name

    async def _read(self) -> Leave | Unsure | None:
        """Why the node is to go."""
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                node, found = await self._marked_node(), await self._stateful_set()
        except (OverspillError, TimeoutError) as error:
            if self._member is None:  # nobody but a mark wants it to go, and none was seen
                return leave(None, None, marked=marked(self._node.found))
            log.warning("cannot tell whether this node is wanted", node=self._name, error=str(error))
            return Unsure(str(error))
        return leave(self._member, found, marked=marked(node))

    async def _marked_node(self) -> NodeObject:
        """As it is now: whoever marks it and ends the agent at once does not wait for our watch."""
        try:
            return await self._client.get(NODES, self._name, kind=NodeObject)
        except NotFound:
            return self._node.found

    async def _stateful_set(self) -> StatefulSet | None:
        if self._member is None:
            return None
        name, namespace = self._member.stateful_set, self._member.namespace
        try:
            return await self._client.get(STATEFULSETS, name, namespace=namespace, kind=StatefulSet)
        except NotFound:
            return None

    # --- a node that stays ---

    async def _settle(self, asked: asyncio.Event) -> None:
        """Undo, until `asked`, what is half done on a node that is to stay after all.

        An earlier agent left it so, or the controller, which had not heard of this one yet.
        """
        looked_at = NodeObject()
        while not asked.is_set():
            node = self._node.found
            if node is not looked_at and half_done(node):
                reading = await self._read()
                if isinstance(reading, Leave) or (reading is None and await self._cancelled()):
                    looked_at = node
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND):
                    await asked.wait()

    async def _cancelled(self) -> bool:
        """Uncordon, if it was us who cordoned, and tell; False when that has to be tried again."""
        name = self._name
        try:
            node = await self._client.get(NODES, name, kind=NodeObject)
            patch = uncordon_patch(node)
            if patch is not None:
                await self._client.patch(NODES, name, patch, content_type=MERGE)
            if node.condition(DECOMMISSIONING) is not None:
                gone = condition_patch(None, since=0.0, now=0.0)
                await self._client.patch(NODES, name, gone, subresource="status")
        except OverspillError as error:
            log.warning("node not set right yet", node=name, error=str(error))
            return False
        if self._drain is None and not half_done(node):
            return True  # set right already; the watch is late
        log.info("node is wanted again", node=name)
        self._events.normal(
            reference(node), "DecommissionCancelled", "the node is wanted again; its pods go on"
        )
        await self._events_written()
        return True

    # --- a node that goes ---

    def _begun(self, reading: Leave | Unsure | None) -> Drain:
        """The drain; what was read last counts while nothing can be read."""
        if self._drain is None:
            assert isinstance(reading, Leave)
            self._pods.close(f"node {self._name} is being decommissioned: {reading.message}")
            self._drain = Drain(self._client, self._events, self._node.found, reading)
        elif isinstance(reading, Leave):
            self._drain.why = reading
        return self._drain

    async def _emptied(self, drain: Drain) -> bool:
        """One round; returns whether nothing is left."""
        try:
            todo = to_do(self._pods.cache.values(), bare_pods=self._bare_pods)
            await drain.step(self._node.found, todo)
            idle = self._pods.cache.synced.is_set() and not todo.pods and not self._pods.groups
            if idle and drain.settled and await self._nothing_left():
                drain.done()
                await self._events_written()
                return True
            await drain.tell(todo, groups=self._pods.groups)
        except OverspillError as error:
            log.warning("node is not empty yet", node=self._name, error=str(error))
        return False

    async def _nothing_left(self) -> bool:
        """By new lists of both sides: a watch may be late."""
        pods = await self._client.list(PODS, field_selector=f"spec.nodeName={self._name}", kind=Pod)
        if to_do(pods, bare_pods=self._bare_pods).pods:
            return False
        return not await self._pods.relist()

    async def _events_written(self) -> None:
        """Give Events the time to be written: this process ends soon."""
        try:
            async with asyncio.timeout(TELL_TIMEOUT):
                await self._events.flush()
        except TimeoutError:
            log.info("events not written in time", node=self._name)
