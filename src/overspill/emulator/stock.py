"""How many container groups of a specification a zone can still take.

In: claims and releases. Out: nothing, or `Refused`. Invariant: what is not limited is in stock; no count
goes below zero.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from overspill.emulator.refusals import Refused
from overspill.emulator.specs import SPECS
from overspill.errors import Misconfigured

__all__ = ["Stock", "no_stock", "parse_limits"]

ANY = "*"


def parse_limits(texts: Iterable[str]) -> dict[tuple[str, str], int]:
    """From `ZONE/SPEC=COUNT`, with `*` for any: `cn-hangzhou-h/2.0-4.0Gi=10`.

    Raises:
        Misconfigured: one is not of that form.
    """
    limits = {}
    for text in texts:
        place, _, count = text.partition("=")
        zone, slash, spec = place.partition("/")
        if not (zone and slash and spec and count.isdigit()):
            raise Misconfigured(f"stock {text!r} is not of the form ZONE/SPEC=COUNT")
        limits[zone, spec] = int(count)
    return limits


class Stock:
    """Limits by (zone, specification), either of which may be `*`."""

    def __init__(self, limits: Mapping[tuple[str, str], int]) -> None:
        self.limits = dict(limits)
        self._used: Counter[tuple[str, str]] = Counter()

    def left(self, zone: str, spec: str) -> int | None:
        """How many more; None where there is no limit."""
        lefts = [self.limits[key] - self._used[key] for key in _keys(zone, spec) if key in self.limits]
        return min(lefts, default=None)

    def has(self, zone: str, spec: str) -> bool:
        """Whether one more is to be had."""
        left = self.left(zone, spec)
        return left is None or left > 0

    def take(self, zone: str, spec: str) -> None:
        """Count one."""
        self._used.update(_keys(zone, spec))

    def release(self, zone: str, spec: str) -> None:
        """Count one less."""
        self._used.subtract(_keys(zone, spec))

    def category(self, zone: str, spec: str) -> str:
        """As DescribeAvailableResource says it."""
        return "WithStock" if self.has(zone, spec) else "WithoutStock"

    @staticmethod
    def specs() -> list[str]:
        """Every specification on sale."""
        return [f"{float(cpu)}-{float(size)}Gi" for cpu, sizes in SPECS.items() for size in sizes]


def _keys(zone: str, spec: str) -> tuple[tuple[str, str], ...]:
    return (zone, spec), (zone, ANY), (ANY, spec), (ANY, ANY)


def no_stock(zone: str, spec: str) -> Refused:
    """The refusal of a create for which there is none."""
    return Refused(
        "OperationDenied.NoStock",
        f"The resource is out of stock: {spec} in the zone {zone}. Use other zones or specifications.",
    )
