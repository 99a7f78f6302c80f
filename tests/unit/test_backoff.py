"""Pauses grow to their cap, and stay there however often something fails."""

import pytest

from overspill.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1.0), (6, 16.0), (7, 30.0), (1025, 30.0), (10**9, 30.0)]
)
def test_backoff(failures, seconds):
    assert backoff(failures, first=0.5, cap=30.0) == seconds
