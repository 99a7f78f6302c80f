"""What container groups have cost: one line per group that was ever billed.

In: the beginnings and ends that `store` keeps. Out: lines and a sum. Invariant: a line without an end is
a group that exists and costs money now, whoever has forgotten it.
Source: ECI bills by the second, from the pulling of images to the end, nothing while it schedules.
"""

from collections.abc import Iterable

from msgspec import Struct

__all__ = ["Bill", "Line", "total"]


class Line(Struct, frozen=True):
    """One group's.

    Attributes:
        price: of one second.
        began, ended: seconds since 1970; `ended` is None while it runs on.
    """

    group: str
    name: str
    cpu: float
    memory: float
    price: float
    began: float
    ended: float | None = None
    tags: dict[str, str] = {}

    def seconds(self, now: float) -> float:
        """How long it has been billed."""
        return max(0.0, (now if self.ended is None else self.ended) - self.began)

    def cost(self, now: float) -> float:
        """What it has cost."""
        return self.seconds(now) * self.price


class Bill(Struct, frozen=True):
    """The sum.

    Attributes:
        running: groups that cost money now.
        per_hour: what those cost an hour.
    """

    groups: int
    running: int
    vcpu_hours: float
    gib_hours: float
    cost: float
    per_hour: float


def total(lines: Iterable[Line], *, now: float) -> Bill:
    """Add the lines up."""
    every = list(lines)
    running = [line for line in every if line.ended is None]
    return Bill(
        groups=len(every),
        running=len(running),
        vcpu_hours=sum(line.cpu * line.seconds(now) for line in every) / 3600,
        gib_hours=sum(line.memory * line.seconds(now) for line in every) / 3600,
        cost=sum(line.cost(now) for line in every),
        per_hour=sum(line.price for line in running) * 3600,
    )
