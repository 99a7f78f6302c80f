"""What goes wrong, and when: pure.

In: a seed, a length, the kinds that are switched on. Out: `Fault` values in the order of their times, round by round.
Invariant: the same arguments give the same lists on every machine; each kind comes before any comes twice in a round.
"""

import random

from msgspec import Struct, structs

# Of the length of a run; what begins later would outlast it.
FIRST_AT = 5.0
# About each kind once, a fault every eight seconds.
ROUND_SECONDS = 240.0


class Fault(Struct, frozen=True):
    """One thing that goes wrong.

    Attributes:
        at: seconds from the start of the schedule.
        seconds: how long it lasts; 0 for what is done at once.
        node: number of the virtual node that is meant, where one is.
    """

    at: float
    kind: str
    seconds: float = 0.0
    node: int = 0

    @property
    def until(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.0f} s" if self.seconds else ""
        return f"{self.at:7.1f} s  {self.kind}{lasts} (node {self.node})"


# kind -> shortest and longest time that it lasts.
KINDS: dict[str, tuple[float, float]] = {
    "agent-kill": (0, 0),
    "agent-clock-jump": (5, 60),
    "agent-stop": (5, 60),
    "agents-kill-all": (0, 0),
    "controller-kill": (0, 0),
    "controller-stop": (5, 60),
    "emulator-kill": (0, 10),
    "emulator-stop": (5, 45),
    "apiserver-kill": (0, 15),
    "apiserver-stop": (5, 30),
    "etcd-kill": (0, 10),
    "watch-cut": (0, 0),
    "half-open": (0, 0),
    "expired": (3, 6),
    "api-5xx": (5, 30),
    "api-429": (5, 30),
    "api-lost-reply": (5, 30),
    "eci-5xx": (5, 30),
    "eci-throttle": (5, 30),
    "eci-lost-reply": (5, 30),
    "eci-duplicate": (5, 30),
    "eci-latency": (5, 30),
    "no-stock": (5, 45),
    "no-addresses": (5, 45),
    "schedule-failure": (3, 10),
    "spot-interruption": (0, 0),
    "stray-group": (0, 0),
    "clock-jump": (5, 30),
    "agents-scale": (40, 100),
    "node-delete": (0, 0),
    "twin-agent": (20, 60),
    "pod-recreated": (5, 30),
    "log-disk-full": (10, 40),
}


def rounds(seed: int, seconds: float, *, every: float = 8.0, nodes: int = 4) -> list[list[Fault]]:
    """As many rounds of about four minutes as fit into `seconds` of faults; the calm after each is not counted."""
    count = max(1, round(seconds / ROUND_SECONDS))
    return [
        schedule(f"{seed}.{number}", seconds / count, every=every, nodes=nodes) for number in range(count)
    ]


def schedule(
    seed: int | str,
    seconds: float,
    *,
    every: float = 8.0,
    nodes: int = 4,
    kinds: dict[str, tuple[float, float]] = KINDS,
) -> list[Fault]:
    """Faults about `every` so many seconds, of which none lasts beyond `seconds`."""
    luck = random.Random(seed)
    faults: list[Fault] = []
    deck: list[str] = []
    at = FIRST_AT
    while at < seconds:
        if not deck:
            deck = sorted(kinds)
            luck.shuffle(deck)
        kind = deck.pop()
        fault = Fault(round(at, 1), kind, round(luck.uniform(*kinds[kind]), 1), luck.randrange(nodes))
        faults.append(structs.replace(fault, seconds=min(fault.seconds, round(seconds - fault.at, 1))))
        at += luck.uniform(0.5, 1.5) * every
    return faults


def last_end(faults: list[Fault]) -> float:
    """When the last of them is over."""
    return max((fault.until for fault in faults), default=0.0)
