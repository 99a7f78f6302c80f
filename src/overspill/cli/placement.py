"""`overspill placement status|explain|release`: look at placement without the controller.

In: a kubeconfig, names. Out: tables and sentences on stdout. Invariant: only `release` changes anything.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from overspill.cli.tables import new_table, plain, print_table
from overspill.kube.client import Client
from overspill.kube.config import Config, load_config
from overspill.placement.managed import Managed
from overspill.placement.status import count_pools
from overspill.placement.survey import explain_pod, leading, release_pods, survey
from overspill.printable import printable
from overspill.settings import ControllerSettings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Kubeconfig = Annotated[str, typer.Option(help="Path of a kubeconfig; else $KUBECONFIG, ~/.kube/config.")]
Context = Annotated[str, typer.Option(help="Context of the kubeconfig.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace; else the context's.")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]
T = TypeVar("T")
defaults = ControllerSettings()


@app.command()
def status(
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
) -> None:
    """Show how the pods of each policy are spread over its pools, and whether a controller works."""
    config = load_config(kubeconfig or None, context or None)
    where = "" if all_namespaces else namespace or config.namespace

    async def look(client: Client) -> tuple[list[Managed], str]:
        return await survey(client, where), await leading(
            client, defaults.lease_namespace, defaults.lease_name
        )

    found, controller = _run(config, look)
    if found:
        print_table(_table(found))
    else:
        print(f"No PlacementPolicies in {_named(where)}.")
    print(controller)


@app.command()
def explain(
    pod: Annotated[str, typer.Argument(help="Name of a pod, as NAME or pod/NAME.")],
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
) -> None:
    """Tell why a pod is where it is, or why it waits."""
    config = load_config(kubeconfig or None, context or None)
    name = _name(pod)
    for sentence in _run(config, lambda client: explain_pod(client, namespace or config.namespace, name)):
        print(printable(sentence))


@app.command()
def release(
    pods: Annotated[
        list[str] | None, typer.Argument(help="Names of pods; without any, all that wait.")
    ] = None,
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
) -> None:
    """Let pods go that wait for their pool, wherever the scheduler puts them.

    For when there is no controller any more. One that works counts them where they come to run.
    """
    if pods and all_namespaces:
        raise typer.BadParameter("a pod's name goes with one namespace, not with --all-namespaces")
    config = load_config(kubeconfig or None, context or None)
    where = "" if all_namespaces else namespace or config.namespace
    chosen = [_name(pod) for pod in pods or []]
    found = _run(config, lambda client: release_pods(client, where, chosen))
    for name, waited in found.items():
        print(f"pod {name} released" if waited else f"pod {name} does not wait")
    if not found:
        print(f"No pod waits in {_named(where)}.")


def _name(pod: str) -> str:
    """NAME of pod/NAME, as kubectl prints and takes it."""
    kind, slash, name = pod.partition("/")
    return name if slash and kind in {"pod", "pods", "po"} else pod


def _named(namespace: str) -> str:
    return f"namespace {namespace}" if namespace else "any namespace"


def _run(config: Config, work: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Client(config, connections=4) as client:
            return await work(client)

    return asyncio.run(run())


def _table(found: list[Managed]) -> Table:
    heads = ("NAMESPACE", "POLICY", "POOL", "LIMIT", "PODS", "SCHEDULED", "READY", "UNSCHEDULABLE", "WAITING")
    table = new_table(heads, numbers=heads[3:])
    for managed in found:
        meta, waiting = managed.policy.metadata, str(len(managed.state.waiting))
        for pool, count in zip(managed.policy.spec.pools, count_pools(managed.state), strict=True):
            most = "none" if pool.max_replicas is None else str(pool.max_replicas)
            numbers = (count.assigned, count.scheduled, count.ready, count.unschedulable)
            table.add_row(*plain(meta.namespace, meta.name, pool.name, most), *map(str, numbers), waiting)
            waiting = ""
    return table
