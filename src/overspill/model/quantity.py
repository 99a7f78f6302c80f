"""Kubernetes quantities such as `500m`, `1.5`, `2Gi`, `1e3`.

In: text of the API. Out: exact numbers, and back. Invariant: rounding, where there is any, is up,
as Kubernetes rounds. Parsed texts are remembered: the pods of one Deployment repeat theirs.
Source of the grammar: k8s.io/apimachinery/pkg/api/resource/quantity.go.
"""

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

__all__ = ["ceiling", "format_bytes", "format_cpu", "milli", "parse_quantity", "whole"]

BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
}
SUFFIXES = {**DECIMAL, **{suffix: Decimal(unit) for suffix, unit in BINARY.items()}}
GRAMMAR = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE])?)")
REMEMBERED = 4096


@lru_cache(maxsize=REMEMBERED)
def parse_quantity(text: str) -> Decimal:
    """The exact value of a quantity, in its base unit (cores, bytes, items).

    Raises:
        ValueError: it is not a quantity.
    """
    match = GRAMMAR.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m or 2Gi")
    number, exponent, suffix = match.groups()
    return Decimal(number).scaleb(int(exponent)) if exponent else Decimal(number) * SUFFIXES[suffix or ""]


@lru_cache(maxsize=REMEMBERED)
def milli(text: str | int) -> int:
    """A quantity in thousandths, rounded up: millicores of a CPU quantity."""
    return ceiling(parse_quantity(str(text)) * 1000)


@lru_cache(maxsize=REMEMBERED)
def whole(text: str | int) -> int:
    """A quantity in its base unit, rounded up: bytes of a memory quantity."""
    return ceiling(parse_quantity(str(text)))


def ceiling(value: Decimal) -> int:
    """The next whole number at or above a value."""
    return int(value.to_integral_value(ROUND_CEILING))


def format_cpu(cores: Decimal) -> str:
    """Cores in canonical form: `2`, `1500m`; a part of a millicore rounds up."""
    millis = ceiling(cores * 1000)
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def format_bytes(size: Decimal) -> str:
    """Bytes in canonical form: `512Mi`, `1Gi`, `1000`."""
    count = ceiling(size)
    for suffix, unit in reversed(BINARY.items()):
        if count and count % unit == 0:
            return f"{count // unit}{suffix}"
    return str(count)
