"""Kubernetes quantities such as `500m`, `1.5`, `2Gi`, `1e3`.

Source of the grammar: k8s.io/apimachinery/pkg/api/resource/quantity.go.
"""

from decimal import ROUND_CEILING, Decimal, InvalidOperation

__all__ = ["format_bytes", "format_cpu", "parse_quantity"]

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


def parse_quantity(text: str) -> Decimal:
    """The exact value of a quantity, in its base unit (cores, bytes, items).

    Raises:
        ValueError: it is not a quantity.
    """
    number, factor = text.strip(), Decimal(1)
    if number[-2:] in BINARY:
        number, factor = number[:-2], Decimal(BINARY[number[-2:]])
    elif number[-1:].isalpha():
        number, factor = number[:-1], DECIMAL.get(number[-1], Decimal("NaN"))
    try:
        value = Decimal(number) * factor
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a quantity such as 500m or 2Gi") from error
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a quantity such as 500m or 2Gi")
    return value


def format_cpu(cores: Decimal) -> str:
    """Cores in canonical form: `2`, `1500m`; a part of a millicore rounds up."""
    millis = int((cores * 1000).to_integral_value(ROUND_CEILING))
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def format_bytes(size: Decimal) -> str:
    """Bytes in canonical form: `512Mi`, `1Gi`, `1000`."""
    count = int(size.to_integral_value(ROUND_CEILING))
    for suffix, unit in reversed(BINARY.items()):
        if count and count % unit == 0:
            return f"{count // unit}{suffix}"
    return str(count)
