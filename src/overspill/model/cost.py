"""What pods cost on serverless instances, and what the same would on nodes of one's own.

In: a price table, sizes, times, annotations of pods. Out: money. Pure but for reading the table that comes
with the package. Invariant: money is exact (`Decimal`); a group is billed by the second for its rounded
size, from when its images are pulled until it has ended.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from overspill import names

__all__ = [
    "COST_ANNOTATION",
    "CURRENCY_ANNOTATION",
    "PRICE_ANNOTATION",
    "SOURCE_ANNOTATION",
    "SPEC_ANNOTATION",
    "Bill",
    "PodCost",
    "PriceTable",
    "bills",
    "cost_of",
    "hourly",
    "list_prices",
    "parse_spec",
    "price_of",
]

# The size that is billed, as Alibaba's own virtual node writes it.
SPEC_ANNOTATION = "k8s.aliyun.com/eci-instance-spec"
PRICE_ANNOTATION = f"{names.DOMAIN}/price-per-second"
CURRENCY_ANNOTATION = f"{names.DOMAIN}/currency"
# Where the price is from: `list`, the table that comes with overspill, or `quote`, the cloud's own answer.
SOURCE_ANNOTATION = f"{names.DOMAIN}/price-source"
COST_ANNOTATION = f"{names.DOMAIN}/cost"

HOUR = 3600
# Whoever may write a pod may write its annotations: no vCPUs, GiB or money, per second or for a pod, are so many.
INCREDIBLE = 10**6


class PriceTable(Struct, frozen=True, rename="camel"):
    """List prices per second, and the day they were read."""

    date: str
    source: str
    currency: str
    vcpu_second: Decimal
    economy_vcpu_second: Decimal
    gib_second: Decimal

    def per_second(self, *, cpu: float, memory: float, economy: bool = False) -> Decimal:
        """The price of a size in vCPU and GiB."""
        vcpu = self.economy_vcpu_second if economy else self.vcpu_second
        return Decimal(str(cpu)) * vcpu + Decimal(str(memory)) * self.gib_second


@cache
def list_prices() -> PriceTable:
    """The table that comes with the package."""
    return msgspec.json.decode((files("overspill.model") / "prices.json").read_bytes(), type=PriceTable)


class PodCost(Struct, frozen=True, kw_only=True):
    """One pod's share of the bill.

    Attributes:
        owner: what made the pod, such as `Deployment web`; "" for a pod of its own.
        cost: the money.
        seconds: for which it was billed until now, or until it ended.
    """

    namespace: str
    owner: str
    name: str
    cpu: float
    memory: float
    cost: Decimal
    currency: str
    seconds: float


class Bill(Struct, frozen=True, kw_only=True):
    """The sum of some pods' costs."""

    name: str
    pods: int
    vcpu_hours: float
    gib_hours: float
    cost: Decimal
    currency: str


def bills(pods: Iterable[PodCost], *, by: str) -> list[Bill]:
    """One bill per `namespace`, `owner` or `name` and currency, the dearest first."""
    grouped: dict[tuple[str, str], list[PodCost]] = {}
    for pod in pods:
        grouped.setdefault((_name(pod, by), pod.currency), []).append(pod)
    return sorted((_bill(name, each) for (name, _), each in grouped.items()), key=lambda bill: -bill.cost)


def _name(pod: PodCost, by: str) -> str:
    return pod.namespace if by == "namespace" else f"{pod.namespace}/{getattr(pod, by) or pod.name}"


def _bill(name: str, pods: list[PodCost]) -> Bill:
    return Bill(
        name=name,
        pods=len(pods),
        vcpu_hours=sum(pod.cpu * pod.seconds for pod in pods) / HOUR,
        gib_hours=sum(pod.memory * pod.seconds for pod in pods) / HOUR,
        cost=sum((pod.cost for pod in pods), Decimal(0)),
        currency=pods[0].currency,
    )


def hourly(price: Decimal, currency: str) -> str:
    """A price per second as people read it: `0.44 CNY/h`."""
    return f"{price * HOUR:.4f} {currency}/h".replace(" /", "/")


def parse_spec(text: str) -> tuple[float, float] | None:
    """VCPU and GiB of `2.0-4.0Gi`; None for the name of an instance type."""
    cpu, _, memory = text.partition("-")
    try:
        size = float(cpu), float(memory.removesuffix("Gi"))
    except ValueError:
        return None
    return size if all(0 <= each < INCREDIBLE for each in size) else None


def price_of(annotations: Mapping[str, str]) -> tuple[Decimal, str] | None:
    """Price per second and currency that a backend wrote on a pod; None for what can be no price."""
    price = _amount(annotations.get(PRICE_ANNOTATION, ""))
    return None if price is None else (price, annotations.get(CURRENCY_ANNOTATION, ""))


def cost_of(annotations: Mapping[str, str]) -> Decimal | None:
    """The whole cost that a backend wrote on a pod that has ended; None for what can be none."""
    return _amount(annotations.get(COST_ANNOTATION, ""))


def _amount(text: str) -> Decimal | None:
    try:
        amount = Decimal(text)
        credible = 0 <= amount < INCREDIBLE
    except InvalidOperation:  # no number; NaN, compared
        return None
    return amount if credible else None
