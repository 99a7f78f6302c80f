"""Settings of the `simulated` backend.

In: the agent's `backendOptions`. Out: `Options`, and `Delay`s drawn without a random generator's
state. Invariant: the same seed and the same pod give the same draw, in whatever order pods come.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Literal

import msgspec
from msgspec import Struct

from overspill.errors import Misconfigured

__all__ = ["NOW", "Delay", "Options", "chance", "load_options", "parse_delay"]

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DELAY = re.compile(rf"({NUMBER})|(uniform|normal|exponential)\(({NUMBER})(?:,\s*({NUMBER}))?\)")
TINY = 1e-12


class Delay(Struct, frozen=True):
    """A time in seconds, or a distribution of times.

    `constant` and `exponential` use `first` (the mean), `uniform` is from `first` to `second`,
    `normal` has mean `first` and standard deviation `second`, cut off at 0.
    """

    kind: Literal["constant", "uniform", "normal", "exponential"] = "constant"
    first: float = 0.0
    second: float = 0.0

    def draw(self, luck: Callable[[], float]) -> float:
        """One time, by inverse transform of a number from [0, 1), which is asked for only if needed."""
        match self.kind:
            case "constant":
                return self.first
            case "uniform":
                return self.first + (self.second - self.first) * luck()
            case "normal":
                chance = min(max(luck(), TINY), 1 - TINY)
                return max(0.0, NormalDist(self.first, self.second or TINY).inv_cdf(chance))
            case "exponential":
                return -self.first * math.log1p(-luck())


NOW = Delay()


def parse_delay(text: str) -> Delay:
    """`2`, `uniform(1, 3)`, `normal(2, 0.5)` or `exponential(3)`, in seconds.

    Raises:
        ValueError: it is none of these.
    """
    match = DELAY.fullmatch(text.strip())
    if match is None or (match[2] in {"uniform", "normal"}) != (match[4] is not None):
        raise ValueError(
            f"{text!r} is no time: write seconds, uniform(a, b), normal(mean, deviation) or exponential(mean)"
        )
    if match[1]:
        return Delay("constant", float(match[1]))
    return Delay(match[2], float(match[3]), float(match[4] or 0))  # type: ignore[arg-type]  # the pattern has the words


def chance(*parts: object) -> float:
    """A number from [0, 1) that depends on the parts alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings, all of which may be left alone. Times are in seconds, or distributions (`Delay`).

    Attributes:
        seed: another seed gives other draws.
        cidr: range of the pods' addresses; empty takes one of the 128 parts of 100.64.0.0/10 by the
            number at the end of the node's name.
        stock: how many pods it has room for; the others wait with reason `NoStock`. None: no limit.
        start_seconds: from create to the first container's start.
        stop_seconds: from SIGTERM to the end of a container; past its grace it is killed.
        run_seconds: how long containers run by themselves; empty: until they are stopped.
        exit_code: with which they then end.
        log_seconds: between two lines of a container's output; 0 for none.
        pull_failure_rate: part of the pods whose images cannot be pulled.
        crash_rate: part of the pods whose containers end with code 1 after a second, again and again.
        lost_reply_rate: part of the creates that are done, but whose first reply is lost.
        outage_after: seconds until the backend cannot be reached …
        outage_seconds: … for so long; 0 for never.
    """

    seed: int = 0
    cidr: str = ""
    stock: int | None = None
    start_seconds: float | str = 0
    stop_seconds: float | str = 0
    run_seconds: float | str = ""
    exit_code: int = 0
    log_seconds: float = 10.0
    pull_failure_rate: float = 0.0
    crash_rate: float = 0.0
    lost_reply_rate: float = 0.0
    outage_after: float = 0.0
    outage_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start_seconds", "stop_seconds", "run_seconds"):
            if getattr(self, name) != "":
                parse_delay(str(getattr(self, name)))
        for name in ("pull_failure_rate", "crash_rate", "lost_reply_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")


def load_options(values: Mapping[str, Any]) -> Options:
    """The settings.

    Raises:
        Misconfigured: one is unknown or wrong; names it.
    """
    try:
        return msgspec.convert(values, Options, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise Misconfigured(f"backend simulated: {error}; its options are {known}") from error
