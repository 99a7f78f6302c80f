"""Quantities: the grammar, exactness, rounding up."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.model.quantity import BINARY, SUFFIXES, format_bytes, format_cpu, milli, parse_quantity, whole

VALUES = {
    "0": "0",
    "1": "1",
    "+1.5": "1.5",
    "-2": "-2",
    ".5": "0.5",
    "5.": "5",
    "100m": "0.1",
    "1u": "0.000001",
    "1n": "0.000000001",
    "1k": "1000",
    "1Ki": "1024",
    "1.5Gi": "1610612736",
    "1E": "1000000000000000000",
    "1e3": "1000",
    "1E3": "1000",
    "12e-1": "1.2",
    "9Ei": "10376293541461622784",
}
WRONG = [
    "",
    " ",
    "m",
    "Gi",
    "1g",
    "1KI",
    "1mi",
    "one",
    "1 Gi",
    "1e3Ki",
    "1e",
    "1_000",
    "\u0661",
    "NaN",
    "Infinity",
    "--1",
    "1.2.3",
]


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_quantity_is_read_exactly(text, value):
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_quantity_is_told(text):
    with pytest.raises(ValueError, match="is not a quantity such as 500m or 2Gi"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "millis", "units"),
    [("250m", 250, 1), ("1", 1000, 1), ("1u", 1, 1), ("1.0001", 1001, 2), ("0", 0, 0), (3, 3000, 3)],
)
def test_rounding_is_up(text, millis, units):
    assert (milli(text), whole(text)) == (millis, units)


@given(st.integers(0, 10**9), st.sampled_from(sorted(SUFFIXES)))
def test_suffixes_multiply(count, suffix):
    assert parse_quantity(f"{count}{suffix}") == count * SUFFIXES[suffix]


@given(st.integers(0, 2**62))
def test_formatted_bytes_read_back_the_same(count):
    assert whole(format_bytes(Decimal(count))) == count


@given(st.integers(0, 10**9))
def test_formatted_cpu_reads_back_the_same(millis):
    assert milli(format_cpu(Decimal(millis) / 1000)) == millis


def test_bytes_take_the_largest_suffix_that_fits():
    assert [format_bytes(Decimal(unit)) for unit in BINARY.values()] == [f"1{suffix}" for suffix in BINARY]
