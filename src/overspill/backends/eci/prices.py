"""What is written on a pod of its instance and its price.

In: a group's size, its entry, its end, ECI's quotes. Out: annotations. Pure. Invariant: a price is marked as the
list price of `model/cost.py` or as a quote; what a spot instance, a named instance type or storage beyond the free one
costs is not known from the list, and not guessed.
"""

from decimal import Decimal

from msgspec import Struct

from overspill import names
from overspill.backends.eci.annotations import parse
from overspill.backends.eci.answers import GroupEntry, Quote
from overspill.backends.eci.refusals import unhonoured
from overspill.backends.eci.specs import Size
from overspill.backends.eci.translate import extra_storage, group_size
from overspill.backends.eci.wire import Params
from overspill.model.cost import (
    COST_ANNOTATION,
    CURRENCY_ANNOTATION,
    PRICE_ANNOTATION,
    SOURCE_ANNOTATION,
    SPEC_ANNOTATION,
    list_prices,
)
from overspill.model.observation import Observation, Terminated
from overspill.model.work import WorkSpec

__all__ = [
    "Kind",
    "annotations_of_entry",
    "annotations_of_work",
    "ending_annotations",
    "kind_of_entry",
    "kind_of_work",
    "quoted",
]


class Kind(Struct, frozen=True):
    """What groups that cost the same have in common; `storage`: GiB beyond those that cost nothing."""

    size: Size
    category: str = ""
    instance_type: str = ""
    spot_strategy: str = "NoSpot"
    storage: int = 0

    def parameters(self) -> Params:
        """As DescribeContainerGroupPrice asks for them."""
        sized = {"Cpu": self.size.cpu, "Memory": self.size.memory}
        return {
            **({"InstanceType": self.instance_type} if self.instance_type else sized),
            "ComputeCategory": self.category or None,
            "SpotStrategy": self.spot_strategy,
            "EphemeralStorage": self.storage or None,
        }


def kind_of_work(work: WorkSpec, *, region: str) -> Kind | None:
    """Of a group that was just asked for; None where ECI chooses among instance types or categories."""
    asked = parse(work.annotations).parameters
    categories = asked.get("ComputeCategory", [""])
    if "InstanceType" in asked or len(categories) > 1:
        return None
    spot = asked.get("SpotStrategy", "NoSpot")
    return Kind(group_size(work, region), categories[0], "", spot, extra_storage(work, asked))


def kind_of_entry(entry: GroupEntry) -> Kind | None:
    """Of a group as ECI gave it."""
    if not entry.cpu:
        return None
    ecs = entry.instance_type if entry.instance_type.startswith("ecs.") else ""
    told = entry.compute_category
    category = told if isinstance(told, str) else next(iter(told), "")
    size = Size(entry.cpu, entry.memory)
    return Kind(size, category, ecs, entry.spot_strategy or "NoSpot", entry.ephemeral_storage)


def quoted(quote: Quote) -> dict[str, str]:
    """ECI's own price; nothing where it tells none."""
    if quote.trade_price <= 0 or not quote.currency:
        return {}
    price = f"{Decimal(repr(quote.trade_price)):f}"
    return {PRICE_ANNOTATION: price, CURRENCY_ANNOTATION: quote.currency, SOURCE_ANNOTATION: "quote"}


def annotations_of_work(group_id: str, work: WorkSpec, *, region: str) -> dict[str, str]:
    """Of a group that was just asked for; what its instance will be is not always known yet."""
    written = {names.INSTANCE_ANNOTATION: group_id}
    if fields := unhonoured(work):
        written[names.NOT_HONOURED_ANNOTATION] = ",".join(fields)
    kind = kind_of_work(work, region=region)
    if kind is None or kind.spot_strategy != "NoSpot":
        return written
    written[SPEC_ANNOTATION] = str(kind.size)
    if kind.storage:
        return written
    return written | _price(kind.size, economy=kind.category == "economy")


def annotations_of_entry(entry: GroupEntry) -> dict[str, str]:
    """Of a group as ECI gave it."""
    size = Size(entry.cpu, entry.memory)
    written = {names.INSTANCE_ANNOTATION: entry.container_group_id}
    if not entry.cpu:
        return written
    written[SPEC_ANNOTATION] = str(size)
    if entry.instance_type.startswith("ecs."):
        return written | {SPEC_ANNOTATION: entry.instance_type}
    if entry.spot_strategy not in {"", "NoSpot"} or entry.ephemeral_storage:
        return written
    return written | _price(size, economy="economy" in entry.compute_category)


def ending_annotations(seen: Observation, detail: GroupEntry | None) -> dict[str, str]:
    """The whole cost of a group that has ended; nothing where its price or its times are not known."""
    price = seen.annotations.get(PRICE_ANNOTATION)
    states = [each.state for each in seen.containers]
    ends = [state.finished_at for state in states if isinstance(state, Terminated)]
    end = (detail.ended_at if detail else 0.0) or max(ends, default=0.0)
    if not price or end <= seen.started_at:
        return {}
    return {COST_ANNOTATION: f"{Decimal(price) * Decimal(str(end - seen.started_at)):.6f}"}


def _price(size: Size, *, economy: bool) -> dict[str, str]:
    table = list_prices()
    price = table.per_second(cpu=size.cpu, memory=size.memory, economy=economy)
    return {PRICE_ANNOTATION: f"{price:f}", CURRENCY_ANNOTATION: table.currency, SOURCE_ANNOTATION: "list"}
