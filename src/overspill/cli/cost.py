"""`overspill cost`: what the pods on virtual nodes have cost, from the annotations that the backend wrote.

In: pods of a cluster, or a file as `kubectl get pods -A -o json` prints it. Out: a table, or JSON on stdout; on
stderr how far the figures are to be trusted. Invariant: a pod that is left out is counted.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from msgspec import Meta, Struct
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
    cost_of,
    list_prices,
    parse_spec,
    price_of,
)
from overspill.model.pods import OwnerReference

__all__ = ["cost"]

By = Literal["namespace", "owner", "name"]
Time = Annotated[datetime, Meta(tz=True)]

ENDED = {"Succeeded", "Failed"}


class _Meta(Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class _Terminated(Struct, frozen=True, rename="camel"):
    finished_at: Time | None = None


class _State(Struct, frozen=True):
    terminated: _Terminated | None = None


class _ContainerStatus(Struct, frozen=True):
    state: _State = _State()


class _Condition(Struct, frozen=True, rename="camel"):
    type: str = ""
    status: str = ""
    last_transition_time: Time | None = None


class _Status(Struct, frozen=True, rename="camel"):
    phase: str = ""
    start_time: Time | None = None
    conditions: tuple[_Condition, ...] = ()
    container_statuses: tuple[_ContainerStatus, ...] = ()


class _Pod(Struct, frozen=True):
    metadata: _Meta
    status: _Status = _Status()


class _Pods(Struct, frozen=True):
    items: list[_Pod]


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
    lines = bills(_costs(pods, now=time.time()), by=by)
    for note in _notes([pod.metadata.annotations for pod in pods]):
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


def _from_file(file: str) -> list[_Pod]:
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return msgspec.json.decode(text, type=_Pods).items
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{file} does not hold a list of pods as `kubectl get pods -o json` prints: {error}"
        ) from error


async def _from_cluster(kubeconfig: str, context: str) -> list[_Pod]:
    async with Client(load_config(kubeconfig or None, context or None)) as client:
        return await client.list(PODS, kind=_Pod)


def _costs(pods: Iterable[_Pod], *, now: float) -> Iterator[PodCost]:
    """The cost of each pod that has a price and whose billing has begun."""
    for pod in pods:
        meta, began = pod.metadata, _began(pod.status)
        price, size = price_of(meta.annotations), _size(meta.annotations)
        if price is None or size is None or began is None:
            continue
        ended = pod.status.phase in ENDED
        end = _last_end(pod.status, began).timestamp() if ended else now
        seconds = max(end - began.timestamp(), 0.0)
        whole = cost_of(meta.annotations) if ended else None
        yield PodCost(
            namespace=meta.namespace,
            owner=_owner(meta),
            name=meta.name,
            cpu=size[0],
            memory=size[1],
            cost=price[0] * Decimal(str(seconds)) if whole is None else whole,
            currency=price[1],
            seconds=seconds,
        )


def _began(status: _Status) -> datetime | None:
    """When billing began: with the instance, for which a pod may have waited since its startTime; None if not yet."""
    for each in status.conditions:
        if each.type == "PodReadyToStartContainers":
            waits = each.status != "True" and status.phase not in ENDED
            return None if waits else each.last_transition_time or status.start_time
    return status.start_time


def _last_end(status: _Status, began: datetime) -> datetime:
    """When billing ended of a pod that has ended: with its last container."""
    ended = [each.state.terminated for each in status.container_statuses if each.state.terminated]
    return max((each.finished_at for each in ended if each.finished_at), default=began)


def _owner(meta: _Meta) -> str:
    """`Deployment web` for a pod of one of its ReplicaSets."""
    for owner in meta.owner_references:
        if not owner.controller:
            continue
        suffix = meta.labels.get("pod-template-hash", "")
        if owner.kind == "ReplicaSet" and suffix and owner.name.endswith(f"-{suffix}"):
            return f"Deployment {owner.name.removesuffix(f'-{suffix}')}"
        return f"{owner.kind} {owner.name}"
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
