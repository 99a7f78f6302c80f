"""How long to wait before something that failed is tried again. Pure."""

__all__ = ["backoff"]

DOUBLINGS = 64  # more than any cap allows; the thousandth would be no float any more


def backoff(failures: int, *, first: float, cap: float) -> float:
    """Seconds after so many failures in a row, from 1 on: `first`, then twice as long each time, `cap` at most."""
    return min(first * 2.0 ** min(failures - 1, DOUBLINGS), cap)
