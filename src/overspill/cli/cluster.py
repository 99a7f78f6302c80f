"""`overspill up`, `down`, `status`, `kubeconfig`, `kubectl`, `load-image`: the local cluster.

In: flags. Out: data on stdout, talk on stderr. What they do is in `overspill.local`.
"""

import asyncio
import os
import sys
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from overspill.errors import NotFound
from overspill.local import cluster
from overspill.local.paths import cluster_paths
from overspill.local.plan import Options, load_plan
from overspill.local.talk import say

__all__ = ["down", "kubeconfig", "kubectl", "status", "up"]

Name = Annotated[str, typer.Option("--name", help="Name of the cluster.")]
DEFAULT_NAME = "overspill"


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
            help="Where virtual nodes run pods: podman, simulated, eci. Default podman; simulated without root."
        ),
    ] = None,
    tuned: Annotated[
        bool | None, typer.Option("--tuned", help="Flags for scale runs; no worker.", show_default=False)
    ] = None,
) -> None:
    """Start a local cluster, or repair what died of it. Flags not given keep what the cluster has."""
    options = Options(name=name, workers=workers, virtual_nodes=virtual_nodes, backend=backend, tuned=tuned)
    asyncio.run(cluster.up(options))
    flag = "" if name == DEFAULT_NAME else f" --name {name}"
    say(f"next: overspill kubectl{flag} -- get nodes")


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
    console.print(
        f"cluster {found.name}: {'ready' if found.ready else 'not ready; repair it with `overspill up`'}"
    )
    console.print(f"endpoint    {found.endpoint}\nkubeconfig  {found.kubeconfig}")
    for title, rows in (
        ("NODE", [(node.name, "Ready" if node.ready else "NotReady") for node in found.nodes]),
        ("PROCESS", [(each.name, str(each.pid) if each.alive else "ended") for each in found.processes]),
    ):
        table = Table(title, "STATE" if title == "NODE" else "PID", box=None, header_style="", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the kubeconfig of a local cluster's administrator."""
    load_plan(name)
    try:
        sys.stdout.write(cluster_paths(name).kubeconfig.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(
            f"cluster {name!r} has no kubeconfig yet; `overspill up --name {name}` goes on"
        ) from error


def kubectl(
    arguments: Annotated[
        list[str], typer.Argument(help="What to hand to kubectl, after `--`.", metavar="ARGS")
    ],
    name: Name = DEFAULT_NAME,
) -> None:
    """Run the local cluster's own kubectl: `overspill kubectl -- get pods -A`."""
    program, environment = cluster.kubectl_path(name)
    os.execve(program, ["kubectl", *arguments], {**os.environ, **environment})  # noqa: S606 - becomes kubectl
