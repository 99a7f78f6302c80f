"""Nodes as the apiserver knows them.

In: the apiserver's list. Out: `NodeStatus` values, and the wait until nodes are Ready.
"""

import msgspec
from msgspec import Struct

from overspill.local.commands import until
from overspill.local.controlplane import get
from overspill.local.paths import Paths
from overspill.local.plan import Plan

__all__ = ["NodeStatus", "nodes", "wait_for_nodes"]

READY_TIMEOUT = 90.0


class NodeStatus(Struct, frozen=True):
    """One node."""

    name: str
    ready: bool


class _Condition(Struct, frozen=True):
    type: str
    status: str


class _Status(Struct, frozen=True):
    conditions: list[_Condition] = []


class _Meta(Struct, frozen=True):
    name: str


class _Node(Struct, frozen=True):
    metadata: _Meta
    status: _Status = _Status()


class _NodeList(Struct, frozen=True):
    items: list[_Node]


async def nodes(paths: Paths, plan: Plan) -> list[NodeStatus] | None:
    """Every node, or None when the apiserver does not answer."""
    answer = await get(paths, plan, "/api/v1/nodes")
    if answer is None:
        return None
    return [
        NodeStatus(
            node.metadata.name,
            ("Ready", "True") in {(each.type, each.status) for each in node.status.conditions},
        )
        for node in msgspec.json.decode(answer, type=_NodeList).items
    ]


async def wait_for_nodes(paths: Paths, plan: Plan, names: set[str]) -> None:
    """Wait until these nodes are Ready.

    Raises:
        Retry: they were not in time; names those that are not.
    """
    missing = names

    async def all_ready() -> bool:
        nonlocal missing
        known = await nodes(paths, plan) or []
        missing = names - {node.name for node in known if node.ready}
        return not missing

    await until(
        all_ready,
        what="nodes to be Ready",
        timeout=READY_TIMEOUT,
        why=lambda: f": {', '.join(sorted(missing))}; see {paths.logs} and `overspill status`",
    )
