"""`overspill orphans list|delete`: container groups that no pod wants, and what they cost.

In: a kubeconfig, the agents' backend and its credentials. Out: a table or JSON on stdout, talk on stderr; exit code 0,
or 1 if something could not be deleted. Invariant: nothing is deleted without `--yes`, and only what two looks, one after
the other, have found to be unwanted.
"""

import asyncio
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import typer
from rich.table import Table

from overspill.backends.base import Inventory
from overspill.backends.registry import backend_factory, inventory_of
from overspill.cli.tables import new_table, plain, print_table
from overspill.errors import Misconfigured, NotFound, OverspillError, Rejected
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan
from overspill.local.virtualnodes import backend_options, environment
from overspill.model.cost import HOUR, hourly
from overspill.orphans.look import cluster_id, take_look
from overspill.orphans.sort import UNWANTED, Look, Sorted, State, costs, counts, doubts, sort
from overspill.settings import ControllerSettings, load_controller_settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

T = TypeVar("T")
Take = Callable[[], Awaitable[Look]]


def _settings(
    *,
    config: Annotated[str, typer.Option(help="YAML file of the controller's or the agents' settings.")] = "",
    kubeconfig: Annotated[
        str, typer.Option(help="Path of a kubeconfig; else $KUBECONFIG, ~/.kube/config.")
    ] = "",
    context: Annotated[str, typer.Option(help="Context of the kubeconfig.")] = "",
    backend: Annotated[str, typer.Option(help="Where the agents run pods.")] = "",
    backend_option: Annotated[
        list[str] | None, typer.Option(help="A setting of the backend.", metavar="KEY=VALUE")
    ] = None,
    name: Annotated[str, typer.Option(help="Of a local cluster; instead of all the flags before.")] = "",
) -> ControllerSettings:
    """What the flags that all commands have say of cluster and backend."""
    flags = {
        "kubeconfig": kubeconfig,
        "context": context,
        "backend": backend,
        "backend_options": backend_option,
    }
    given = {flag: value for flag, value in flags.items() if value}
    settings = load_controller_settings(config or None, flags=_of_local(name) if name else given)
    if not settings.backend:
        raise Misconfigured(
            "which backend do the agents use? Give --backend and --backend-option, their --config, or --name"
        )
    return settings


def _with_settings(work: Callable[..., None]) -> Callable[..., None]:
    """A command that has the flags of `_settings` before its own, and is given what they say."""
    shared = inspect.signature(_settings).parameters
    own = {name: each for name, each in inspect.signature(work).parameters.items() if name != "settings"}

    def command(**values: Any) -> None:
        settings = _settings(**{name: values.pop(name) for name in shared})
        work(settings, **values)

    command.__doc__ = work.__doc__
    parameters = [*shared.values(), *own.values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


@app.command("list")
@_with_settings
def list_(
    settings: ControllerSettings,
    *,
    all_groups: Annotated[bool, typer.Option("--all", "-A", help="Those that are owned as well.")] = False,
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="Shape.")] = "table",
) -> None:
    """Show container groups that have lost their pod or their agent, and what they cost."""

    async def look(_: Inventory, take: Take) -> Look:
        return await take()

    seen = _run(settings, look)
    found = sort(seen)
    shown = [each for each in found if all_groups or each.state is not State.OWNED]
    if output == "json":
        _print_json(shown)
    elif shown:
        print_table(_table(shown))
    print(_summary(seen, found), file=sys.stderr)


@app.command("delete")
@_with_settings
def delete(
    settings: ControllerSettings,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, which is the default.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if there seem to be too many to be true.")
    ] = False,
) -> None:
    """Delete container groups that have lost their pod."""
    if yes and dry_run:
        raise typer.BadParameter("--yes and --dry-run exclude each other")

    async def work(inventory: Inventory, take: Take) -> bool:
        first = await take()
        unwanted = [each for each in sort(first) if each.state in UNWANTED]
        if not unwanted:
            print("No orphans.", file=sys.stderr)
            return True
        print_table(_table(unwanted))
        print(_summary(first, unwanted), file=sys.stderr)
        if not yes:
            print("Nothing was deleted; `overspill orphans delete --yes` does it.", file=sys.stderr)
            return True
        return await _delete(inventory, unwanted, await take(), force=force)

    if not _run(settings, work):
        raise typer.Exit(1)


async def _delete(inventory: Inventory, before: Sequence[Sorted], look: Look, *, force: bool) -> bool:
    """Delete what is unwanted in both looks; False if one could not be."""
    found = sort(look)
    doubt = doubts(look, found)
    if doubt and not force:
        raise Rejected(
            f"nothing was deleted: {doubt}. Is this the right cluster, and was it restored from a backup? "
            "If the table is right all the same, add --force"
        )
    known = {(each.group.id, each.state) for each in before}
    well = True
    for each in found:
        if (each.group.id, each.state) in known:
            well = await _deleted(inventory, each) and well
    return well


async def _deleted(inventory: Inventory, each: Sorted) -> bool:
    try:
        await inventory.remove(each.group)
    except NotFound:
        print(f"containergroup {each.group.id} is gone already")
    except OverspillError as error:
        print(f"error: containergroup {each.group.id}: {error}", file=sys.stderr)
        return False
    else:
        print(f"containergroup {each.group.id} deleted")
    return True


def _of_local(name: str) -> dict[str, Any]:
    """What a local cluster's controller is given; its credentials come to where backends look for them."""
    plan, paths = load_plan(name), cluster_paths(name)
    os.environ.update(environment(paths, plan))
    options = backend_options(paths, plan)
    return {"kubeconfig": str(paths.kubeconfig), "backend": plan.backend, "backend_options": options}


def _run(settings: ControllerSettings, work: Callable[[Inventory, Take], Awaitable[T]]) -> T:
    factory = backend_factory(settings.backend)

    async def run() -> T:
        async with AsyncExitStack() as stack:
            kube = load_config(settings.kubeconfig or None, settings.context or None)
            client = await stack.enter_async_context(Client(kube, connections=2))
            cluster = await cluster_id(client)
            inventory = inventory_of(factory, cluster=cluster, options=settings.backend_options)
            await stack.enter_async_context(inventory)
            return await work(inventory, lambda: take_look(client, inventory))

    return asyncio.run(run())


def _summary(look: Look, found: Sequence[Sorted]) -> str:
    numbers = ", ".join(f"{count} {state.lower()}" for state, count in counts(found).items() if count)
    others = f"; {look.foreign} of others in the account, left alone" if look.foreign else ""
    money = " and ".join(hourly(price, currency) for currency, price in costs(found).items())
    return f"{numbers or 'no container groups'}{others}" + (f"; orphans cost {money}" if money else "")


def _table(found: Sequence[Sorted]) -> Table:
    heads = ("GROUP", "STATE", "NAMESPACE", "POD", "NODE", "STATUS", "AGE", "PRICE/H")
    table = new_table(heads, numbers={"AGE", "PRICE/H"})
    for each in found:
        group, identity = each.group, each.group.identity
        table.add_row(
            *plain(group.id, each.state, identity.namespace, identity.name, identity.node, group.status),
            _age(group.created_at),
            _price(each),
        )
    return table


def _price(each: Sorted) -> str:
    price = each.group.price
    return "unknown" if price is None else f"{price * HOUR:.4f} {each.group.currency}".rstrip()


def _age(created_at: float) -> str:
    """As kubectl shortens it, near enough: two units at most."""
    if not created_at:
        return "unknown"
    left = max(int(time.time() - created_at), 0)
    parts: list[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, seconds)
        if number or (unit == "s" and not parts):
            parts.append(f"{number}{unit}")
    return "".join(parts[:2])


def _print_json(found: Sequence[Sorted]) -> None:
    print(msgspec.json.format(msgspec.json.encode([_plain(each) for each in found]), indent=2).decode())


def _plain(each: Sorted) -> dict[str, Any]:
    group = each.group
    return {
        "group": group.id,
        "state": each.state,
        "why": each.why,
        **msgspec.structs.asdict(group.identity),
        "status": group.status,
        "createdAt": group.created_at,
        "pricePerHour": None if group.price is None else str(group.price * HOUR),
        "currency": group.currency,
    }
