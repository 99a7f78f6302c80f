"""`overspill cost`: what the pods on virtual nodes have cost, from the annotations that the backend wrote.

In: pods of a cluster, or a file as `kubectl get pods -A -o json` prints it. Out: a table, or JSON on stdout; on
stderr how far the figures are to be trusted. Invariant: a pod that is left out is counted.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from overspill import names
from overspill.cli.tables import plain, print_table
from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.resources import PODS
from overspill.model.cost import (
    PRICE_ANNOTATION,
    SOURCE_ANNOTATION,
    SPEC_ANNOTATION,
    Bill,
    PodCost,
    bills,
    list_prices,
    parse_spec,
    price_of,
)
from overspill.model.podstatus import seconds

__all__ = ["cost", "pod_costs"]

By = Literal["namespace", "owner", "name"]


def cost(
    *,
    file: Annotated[
        str, typer.Option("--file", "-f", help="Pods as kubectl prints them; - reads from stdin.")
    ] = "",
    by: Annotated[By, typer.Option(help="What a line is.")] = "namespace",
    kubeconfig: Annotated[str, typer.Option(help="Path of a kubeconfig.")] = "",
    context: Annotated[str, typer.Option(help="Context of the kubeconfig.")] = "",
    base_vcpu_hour: Annotated[
        float, typer.Option(help="What a vCPU costs an hour on your own nodes, to compare with.")
    ] = 0.0,
    base_gib_hour: Annotated[
        float, typer.Option(help="What a GiB of memory costs an hour on your own nodes.")
    ] = 0.0,
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="Shape.")] = "table",
) -> None:
    """Print what pods on virtual nodes have cost until now: vCPU-hours, GiB-hours, money."""
    pods = _from_file(file) if file else asyncio.run(_from_cluster(kubeconfig, context))
    lines = bills(pod_costs(pods, now=time.time()), by=by)
    for note in _notes([pod["metadata"].get("annotations") or {} for pod in pods]):
        print(note, file=sys.stderr)
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(lines), indent=2).decode())
        return
    base = (Decimal(str(base_vcpu_hour)), Decimal(str(base_gib_hour)))
    print_table(_table(lines, by, base))


def _notes(annotations: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """What is to be known about the prices of these pods."""
    marks = {names.INSTANCE_ANNOTATION, PRICE_ANNOTATION}
    instances = [each for each in annotations if marks & each.keys()]
    if any(price_of(each) and each.get(SOURCE_ANNOTATION) != "quote" for each in instances):
        yield f"list prices of {list_prices().date} are among these, without discounts"
    if unknown := sum(not (price_of(each) and _size(each)) for each in instances):
        yield f"pods left out, since the price or size of their instance is not known: {unknown}"


def _size(annotations: Mapping[str, str]) -> tuple[float, float] | None:
    return parse_spec(annotations.get(SPEC_ANNOTATION, ""))


def _from_file(file: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return list(msgspec.json.decode(text, type=dict[str, Any])["items"])
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise Misconfigured(
            f"{file} does not hold a list of pods as `kubectl get pods -o json` prints"
        ) from error


async def _from_cluster(kubeconfig: str, context: str) -> list[dict[str, Any]]:
    async with Client(load_config(kubeconfig or None, context or None)) as client:
        return await client.list(PODS, kind=dict[str, Any])


def pod_costs(pods: Iterable[Mapping[str, Any]], *, now: float) -> Iterator[PodCost]:
    """The cost of each pod that has a price and has begun."""
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status") or {}
        annotations = meta.get("annotations") or {}
        price, size = price_of(annotations), _size(annotations)
        if price is None or size is None or not status.get("startTime"):
            continue
        yield PodCost(
            namespace=meta["namespace"],
            owner=_owner(meta),
            name=meta["name"],
            cpu=size[0],
            memory=size[1],
            price=price[0],
            currency=price[1],
            seconds=max(_end(status, now) - seconds(status["startTime"]), 0.0),
        )


def _end(status: Mapping[str, Any], now: float) -> float:
    """When billing ended: with the last container of a pod that has ended."""
    if status.get("phase") not in {"Succeeded", "Failed"}:
        return now
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    ends = [state["terminated"]["finishedAt"] for state in states if state.get("terminated")]
    return max(map(seconds, ends)) if ends else seconds(status["startTime"])


def _owner(meta: Mapping[str, Any]) -> str:
    """`Deployment web` for a pod of one of its ReplicaSets."""
    for owner in meta.get("ownerReferences") or ():
        if not owner.get("controller"):
            continue
        suffix = (meta.get("labels") or {}).get("pod-template-hash", "")
        if owner["kind"] == "ReplicaSet" and suffix and owner["name"].endswith(f"-{suffix}"):
            return f"Deployment {owner['name'].removesuffix(f'-{suffix}')}"
        return f"{owner['kind']} {owner['name']}"
    return ""


def _table(lines: Iterable[Bill], by: str, base: tuple[Decimal, Decimal]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in (by.upper(), "PODS", "VCPU-HOURS", "GIB-HOURS", "COST", "CURRENCY"):
        table.add_column(title, justify="left" if title in (by.upper(), "CURRENCY") else "right")
    compared = any(base)
    if compared:
        table.add_column("ON OWN NODES", justify="right")
    for line in lines:
        own = Decimal(str(line.vcpu_hours)) * base[0] + Decimal(str(line.gib_hours)) * base[1]
        cells = (line.name, str(line.pods), f"{line.vcpu_hours:.2f}", f"{line.gib_hours:.2f}")
        money = (f"{line.cost:.4f}", line.currency)
        table.add_row(*plain(*cells, *money), *([f"{own:.4f}"] if compared else []))
    return table
