"""One look at all container groups of a cluster and at all of its pods.

In: an inventory, a client. Out: a `Look`, or an error. Invariant: the groups are listed before the pods, both whole;
the apiserver is asked each time whether it still is the cluster that the groups are listed of.
"""

from msgspec import Struct, field

from overspill import names
from overspill.backends.base import Inventory
from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.resources import NAMESPACES, NODES, PODS
from overspill.model.podstatus import seconds
from overspill.orphans.sort import Look, Owner

__all__ = ["cluster_id", "take_look"]


class _Annotations(Struct, frozen=True, gc=False):
    instance: str = field(name=names.INSTANCE_ANNOTATION, default="")


class _Meta(Struct, frozen=True):
    name: str
    uid: str
    namespace: str = ""
    annotations: _Annotations | None = None


class _Named(Struct, frozen=True):
    metadata: _Meta


class _Condition(Struct, frozen=True, gc=False, rename="camel"):
    type: str
    status: str
    last_transition_time: str | None = None  # null where nobody wrote one


class _NodeStatus(Struct, frozen=True):
    conditions: tuple[_Condition, ...] = ()


class _Node(Struct, frozen=True):
    metadata: _Meta
    status: _NodeStatus = _NodeStatus()


async def cluster_id(client: Client) -> str:
    """By which the agents of this cluster mark what is theirs."""
    return (await client.get(NAMESPACES, "kube-system", kind=_Named)).metadata.uid


async def take_look(client: Client, inventory: Inventory) -> Look:
    """All groups, all pods, and which agents are there.

    Raises:
        Retry, Throttled, Expired: one of the lists could not be had whole: nothing is known.
        Misconfigured: this account may not list, or the apiserver is another cluster's.
    """
    listing = await inventory.list()
    pods, version = await client.list_at(PODS.path(), query={}, kind=_Named)
    nodes = await client.list(NODES, kind=_Node)
    if (found := await cluster_id(client)) != inventory.cluster:
        raise Misconfigured(f"the apiserver is cluster {found}'s, not {inventory.cluster}'s any more")
    return Look(
        groups=listing.groups,
        owners={pod.metadata.uid: _owner(pod.metadata) for pod in pods},
        agents=frozenset(node.metadata.name for node in nodes if _ready(node)),
        foreign=listing.foreign,
        version=version,
        leaving=tuple(seconds(told) for node in nodes if (told := _since(node, names.DECOMMISSIONING))),
    )


def _owner(meta: _Meta) -> Owner:
    return Owner(meta.uid, meta.namespace, meta.name, meta.annotations.instance if meta.annotations else "")


def _ready(node: _Node) -> bool:
    """The control plane says Unknown once an agent's lease has run out."""
    return _since(node, "Ready") is not None


def _since(node: _Node, condition: str) -> str | None:
    """When a condition became true, "" if it does not say; None if it is not."""
    found = (each for each in node.status.conditions if each.type == condition and each.status == "True")
    return next((each.last_transition_time or "" for each in found), None)
