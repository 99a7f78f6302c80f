"""Nodes as the apiserver knows them.

In: the apiserver's list. Out: `NodeStatus` values, and the wait until nodes are Ready.
"""

import msgspec
from msgspec import Struct

from overspill import names
from overspill.local.commands import until
from overspill.local.controlplane import get
from overspill.local.paths import Paths
from overspill.local.plan import Plan
from overspill.model.node import NodeObject

__all__ = ["NodeStatus", "nodes", "wait_for_nodes"]

READY_TIMEOUT = 180.0


class NodeStatus(Struct, frozen=True):
    """One node.

    Attributes:
        unschedulable: it is cordoned.
        decommissioning: how far its end is; "" if it is to stay.
    """

    name: str
    ready: bool
    unschedulable: bool = False
    decommissioning: str = ""


class _NodeList(Struct, frozen=True):
    items: list[NodeObject]


async def nodes(paths: Paths, plan: Plan) -> list[NodeStatus] | None:
    """Every node, or None when the apiserver does not answer."""
    answer = await get(paths, plan, "/api/v1/nodes")
    if answer is None:
        return None
    return [_told(node) for node in msgspec.json.decode(answer, type=_NodeList).items]


def _told(node: NodeObject) -> NodeStatus:
    ready, going = node.condition("Ready"), node.condition(names.DECOMMISSIONING)
    return NodeStatus(
        node.metadata.name,
        ready=ready is not None and ready.status == "True",
        unschedulable=node.spec.unschedulable,
        decommissioning=going.message if going else "",
    )


async def wait_for_nodes(paths: Paths, plan: Plan, wanted: set[str]) -> None:
    """Wait until these nodes are Ready, and none of them on its way out.

    Raises:
        Retry: they were not in time; names those that are not.
    """
    missing = wanted

    async def all_ready() -> bool:
        nonlocal missing
        known = await nodes(paths, plan) or []
        missing = wanted - {node.name for node in known if node.ready and not node.decommissioning}
        return not missing

    await until(
        all_ready,
        what="nodes to be Ready",
        timeout=READY_TIMEOUT,
        why=lambda: f": {', '.join(sorted(missing))}; see {paths.logs} and `overspill status`",
    )
