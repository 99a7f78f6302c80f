"""Where a backend differs from the others is no secret of its tests."""

from pathlib import Path

from eci_harness import OF_ECI

PAGE = Path(__file__).parents[2] / "docs/backends/eci.md"


def test_what_lies_in_ecis_nature_is_documented():
    words = " ".join(PAGE.read_text().split())
    assert [reason for reason in OF_ECI.values() if reason not in words] == []
