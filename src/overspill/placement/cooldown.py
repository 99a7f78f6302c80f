"""Pools that could not run a pod, and when they are tried again.

In: failures and successes of pods, a clock's reading. Out: whether a pool takes a pod now. Pure.
Invariant: after a failure a pool takes nothing that another does for its cool-down; then one pod, whose fate decides.
Times are seconds of a clock that never goes back, so that no other machine's clock matters.
"""

from msgspec import Struct

from overspill.placement.pools import Refusal

__all__ = ["Cooldowns"]


class _Trouble(Struct):
    until: float
    why: str
    probe: str = ""


class Cooldowns:
    """Cool-downs of one policy's pools, by name."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}

    def begin(self, pool: str, *, until: float, why: str) -> None:
        """A pod could not run there."""
        self._troubles[pool] = _Trouble(until, why)

    def shorten(self, pool: str, until: float) -> None:
        """Let a cool-down last no longer than this, such as after an edit."""
        trouble = self._troubles.get(pool)
        if trouble is not None:
            trouble.until = min(trouble.until, until)

    def refusal(self, pool: str, now: float) -> Refusal | None:
        """Why the pool takes no pod now; None when it does, be it a single one as a probe."""
        trouble = self._troubles.get(pool)
        if trouble is None:
            return None
        if now < trouble.until:
            left = trouble.until - now
            text = f"is left alone for {left:.0f} s more: {trouble.why}"
            return Refusal("CoolingDown", text, spares=True)
        if trouble.probe:
            text = "has been given one pod to see whether it works again"
            return Refusal("Probing", text, spares=True)
        return None

    def given(self, pool: str, uid: str) -> None:
        """A pod was sent there: the probe, when the pool had been in trouble."""
        trouble = self._troubles.get(pool)
        if trouble is not None and not trouble.probe:
            trouble.probe = uid

    def works(self, pool: str, uid: str) -> bool:
        """A pod runs there: the trouble is over if it was the probe; tells whether it was."""
        trouble = self._troubles.get(pool)
        if trouble is None or trouble.probe != uid:
            return False
        del self._troubles[pool]
        return True

    def probe(self, pool: str) -> str:
        """The pod that was sent there to see whether it works again; "" for none."""
        trouble = self._troubles.get(pool)
        return trouble.probe if trouble is not None else ""

    def gone(self, uid: str) -> None:
        """A pod is gone, or not in its pool after all; if it was a probe, another is needed."""
        for trouble in self._troubles.values():
            if trouble.probe == uid:
                trouble.probe = ""

    def until(self, pool: str, now: float) -> float | None:
        """When the pool is tried again, if it is left alone now."""
        trouble = self._troubles.get(pool)
        return trouble.until if trouble is not None and trouble.until > now else None

    def why(self, pool: str) -> str:
        """What the trouble is; "" without any."""
        trouble = self._troubles.get(pool)
        return trouble.why if trouble is not None else ""

    def next_end(self, now: float) -> float | None:
        """When the next cool-down ends."""
        return min((each.until for each in self._troubles.values() if each.until > now), default=None)
