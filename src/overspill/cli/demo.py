"""`overspill demo`: a cluster of its own, the walkthrough on it, and away with it.

In: flags. Out: the session on stdout; exit code 0 only if every step held. Invariant: the cluster is taken
down whatever happens, unless it was to be kept.
"""

import asyncio
import contextlib
from typing import Annotated

import typer

from overspill.errors import OverspillError
from overspill.local import cluster
from overspill.local.paths import cluster_paths
from overspill.local.plan import Options
from overspill.local.talk import say
from overspill.local.walk import Walk, terminal
from overspill.local.walkthrough import walk_through

__all__ = ["demo"]

NEXT = """\
The cluster is still there. Try next:
  overspill kubectl --name {name} -- get pods -A -o wide
  overspill kubectl --name {name} -- -n kube-system scale statefulset virtual-node-eci --replicas=4
  overspill kubectl --name {name} -- apply -f examples/placement.yaml
  overspill kubectl --name {name} -- scale deployment web --replicas=12
  overspill status --name {name}
  overspill down --name {name}"""


def demo(
    name: Annotated[str, typer.Option("--name", help="Name of the demo's cluster.")] = "demo",
    keep: Annotated[
        bool, typer.Option("--keep", envvar="KEEP", help="Leave the cluster running afterwards.")
    ] = False,
    backend: Annotated[
        str, typer.Option("--backend", help="eci: by way of ECI's API, emulated; or podman: directly.")
    ] = "eci",
) -> None:
    """Walk through what virtual nodes do, on a fresh local cluster."""
    asyncio.run(_demo(name, backend=backend, keep=keep))


async def _demo(name: str, *, backend: str, keep: bool) -> None:
    if cluster_paths(name).root.exists():
        say(f"cluster {name} is there from before; taking it down")
        await cluster.down(name)
    try:
        await cluster.up(Options(name=name, workers=1, virtual_nodes=1, backend=backend))
        walk = Walk(name, terminal())
        try:
            await walk_through(walk)
        except OverspillError as error:
            await _tell_failure(walk, error)
            raise
        walk.tick("every step held")
    finally:
        if not keep:
            await cluster.down(name)
    if keep:
        say(NEXT.format(name=name))


async def _tell_failure(walk: Walk, error: OverspillError) -> None:
    """What somebody who looks into it asks first."""
    walk.cross(str(error))
    with contextlib.suppress(OverspillError):
        await walk.show("get", "nodes,pods", "-A", "-o", "wide")
        await walk.show("get", "events", "-A", "--field-selector=type=Warning")
