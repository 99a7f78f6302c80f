"""Faults on demand: what the emulator does wrong, how often, and for which actions.

In: orders of the admin port. Out: the fault that a request meets. Invariant: a fault with a count is met
exactly that often; with a probability, by a random generator of its own seed, so that a run can be repeated.
"""

import random
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

__all__ = ["KINDS", "Fault", "Faults", "Kind"]

Kind = Literal[
    "latency",
    "error",
    "throttle",
    "lost-reply",
    "duplicate",
    "no-stock",
    "schedule-failure",
    "no-addresses",
    "clock-skew",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]  # a Literal has them


class Fault(Struct, frozen=True, kw_only=True):
    """One order.

    Attributes:
        actions: which API actions meet it; empty for all.
        count: how many requests meet it; None for all until it is cleared.
        probability: of a request that could meet it.
        seconds: of `latency`; of `throttle`, how long to wait; of `clock-skew`, by how much the emulator's
            clock is ahead.
        code, status: of `error` and `throttle`; the usual ones when empty.
        zone: of `no-stock`, empty for all.
        vswitch: of `no-addresses`, empty for all.
    """

    kind: Kind
    actions: tuple[str, ...] = ()
    count: int | None = None
    probability: float = 1.0
    seconds: float = 0.0
    code: str = ""
    status: int = 0
    zone: str = ""
    vswitch: str = ""

    def __post_init__(self) -> None:
        if self.kind == "clock-skew" and (self.actions or self.count is not None or self.probability != 1):
            raise ValueError("clock-skew is of the clock, so it has no action, count or probability")


class Armed:
    """A fault and how often it will still be met."""

    def __init__(self, number: int, fault: Fault, seed: int) -> None:
        self.number = number
        self.fault = fault
        self.left = fault.count
        self.met = 0
        self._random = random.Random(seed + number)  # noqa: S311 - faults are to be repeatable

    def meets(self, action: str) -> bool:
        """Whether this request meets it; counts."""
        if self.left == 0 or (self.fault.actions and action not in self.fault.actions):
            return False
        if self.fault.probability < 1 and self._random.random() >= self.fault.probability:
            return False
        self.met += 1
        if self.left is not None:
            self.left -= 1
        return True


class Faults:
    """All orders, in the order given."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._armed: dict[int, Armed] = {}
        self._number = 0

    def add(self, fault: Fault) -> int:
        """Arm a fault; returns the number to clear it by."""
        self._number += 1
        self._armed[self._number] = Armed(self._number, fault, self._seed)
        return self._number

    def clear(self, number: int | None = None) -> None:
        """Forget one fault, or all."""
        if number is None:
            self._armed.clear()
        else:
            self._armed.pop(number, None)

    def meet(self, action: str, *kinds: Kind) -> Fault | None:
        """The first fault of these kinds that a request meets."""
        for armed in self._armed.values():
            if armed.fault.kind in kinds and armed.meets(action):
                return armed.fault
        return None

    def skew(self) -> float:
        """By how many seconds the emulator's clock is ahead."""
        return sum(a.fault.seconds for a in self._armed.values() if a.fault.kind == "clock-skew")

    def listed(self) -> Iterable[Armed]:
        """All orders."""
        return self._armed.values()
