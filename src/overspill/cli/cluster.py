"""`overspill up`, `down`, `status`, `load-image`: the local cluster.

In: flags. Out: data on stdout, talk on stderr. What they do is in `overspill.local`.
"""

import asyncio
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from overspill.cli.access import DEFAULT_NAME, Name
from overspill.local import cluster
from overspill.local.nodes import NodeStatus
from overspill.local.plan import Options
from overspill.local.talk import say

__all__ = ["down", "load_image", "status", "up"]


def up(
    name: Name = DEFAULT_NAME,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Real nodes: a kubelet on containerd. Default 1; 0 without root."),
    ] = None,
    virtual_nodes: Annotated[
        int | None, typer.Option(min=0, help="Virtual nodes, each an agent. Default 1.", show_default=False)
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Where virtual nodes run pods: eci (Alibaba's API, emulated over Podman), podman, simulated. "
            "Default eci; simulated without root or Podman."
        ),
    ] = None,
    tuned: Annotated[
        bool | None, typer.Option("--tuned", help="Flags for scale runs; no worker.", show_default=False)
    ] = None,
    injection: Annotated[
        str | None,
        typer.Option(
            help="What adds to new pods: policy (the apiserver itself, as from Kubernetes 1.36 on) or webhook "
            "(of the controller, as before). Default policy."
        ),
    ] = None,
) -> None:
    """Start a local cluster, or repair what died of it. Flags not given keep what the cluster has."""
    options = Options(
        name=name,
        workers=workers,
        virtual_nodes=virtual_nodes,
        backend=backend,
        tuned=tuned,
        injection=injection,
    )
    asyncio.run(cluster.up(options))
    say(f"next: overspill kubectl{_flag(name)} -- get nodes")


def _flag(name: str) -> str:
    """What a command needs to mean this cluster."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


def down(name: Name = DEFAULT_NAME) -> None:
    """Take a local cluster down and leave nothing of it."""
    if asyncio.run(cluster.down(name)):
        say(f"cluster {name} is gone")
    else:
        say(f"there is no cluster {name}")


def status(
    name: Name = DEFAULT_NAME,
    output: Annotated[
        Literal["table", "json"], typer.Option("-o", "--output", help="Form of the answer.")
    ] = "table",
) -> None:
    """Show a local cluster. Exit code 3 when there is none or it is not whole."""
    found = asyncio.run(cluster.status(name))
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _print_status(found)
    if not found.ready:
        raise typer.Exit(3)


def _print_status(found: cluster.Status) -> None:
    console = Console(soft_wrap=True)
    mend = f"not ready; repair it with `overspill up{_flag(found.name)}`"
    console.print(f"cluster {found.name}: {'ready' if found.ready else mend}")
    console.print(f"endpoint    {found.endpoint}\nkubeconfig  {found.kubeconfig}")
    for title, rows in (
        ("NODE", [(node.name, _state(node)) for node in found.nodes]),
        ("PROCESS", [(each.name, str(each.pid) if each.alive else "ended") for each in found.processes]),
    ):
        table = Table(title, "STATE" if title == "NODE" else "PID", box=None, header_style="", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for node in found.nodes:
        if node.decommissioning:
            console.print(f"{node.name} is being decommissioned: {node.decommissioning}", highlight=False)


def _state(node: NodeStatus) -> str:
    """A node's state in kubectl's words."""
    words = "Ready" if node.ready else "NotReady"
    return f"{words},SchedulingDisabled" if node.unschedulable else words


def load_image(
    image: Annotated[
        str, typer.Argument(help="An image of your Podman, such as localhost/app:1.", metavar="IMAGE")
    ],
    name: Name = DEFAULT_NAME,
) -> None:
    """Copy an image from your Podman into the worker and the cloud of a local cluster."""
    asyncio.run(cluster.load_image(name, image))
    say(f"loaded {image} into cluster {name}")
