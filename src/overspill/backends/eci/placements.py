"""Where a container group is asked for, and where next when there is no room.

In: settings, a pod, ECI's refusals. Out: a `Placement`. Invariant: a vSwitch or security group that
was full is left out for a while, then tried again, for addresses come back. One that a pod names by itself
is its own affair, and no reason to leave out those of the settings.
"""

import hashlib
import time
from collections.abc import Callable

from overspill.backends.eci.annotations import PREFIX, spot_fallback
from overspill.backends.eci.faults import NoRoom
from overspill.backends.eci.options import Options
from overspill.backends.eci.status import NO_ADDRESS, NO_STOCK
from overspill.backends.eci.translate import Placement
from overspill.model.work import WorkSpec

__all__ = ["Placements"]

# Then one pod finds out whether it still is; the others wait for that.
FULL_SECONDS = 20.0
MOST_VSWITCHES = 10
OWN_VSWITCH, OWN_SECURITY_GROUP = PREFIX + "eci-vswitch", PREFIX + "eci-security-group"
SECURITY_GROUP_FULL = "SecurityGroupInstanceLimitExceed"


class Placements:
    """Remembers what was full."""

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._full: dict[str, float] = {}

    def choose(self, work: WorkSpec, *, spot: bool) -> Placement | None:
        """Where to ask for a group now; None while every vSwitch or security group is full.

        Later attempts begin with another vSwitch, so that a zone without stock is not asked first again.
        """
        own = work.annotations
        switches = self._free(self._options.v_switches)
        groups = self._free(self._options.security_groups)
        if not switches and OWN_VSWITCH not in own:
            return None
        if self._options.security_groups and not groups and OWN_SECURITY_GROUP not in own:
            return None
        first = work.identity.attempt % len(switches) if switches else 0
        spread = hashlib.sha256(work.identity.uid.encode()).digest()[0]
        return Placement(
            region=self._options.region,
            v_switch_ids=(*switches[first:], *switches[:first])[:MOST_VSWITCHES],
            schedule_strategy=self._options.schedule_strategy,
            security_group_id=groups[spread % len(groups)] if groups else "",
            resource_group_id=self._options.resource_group_id,
            spot=spot and not (spot_fallback(own) and work.identity.attempt > 0),
        )

    def next_after(self, error: NoRoom, *, work: WorkSpec, placement: Placement) -> bool:
        """Whether another request may find room at once; remembers what was full."""
        own = work.annotations
        if error.reason == NO_ADDRESS:
            if OWN_VSWITCH in own:
                return False
            named = [switch for switch in placement.v_switch_ids if switch in str(error)]
            self._mark(named or placement.v_switch_ids[:1])
            return bool(self._free(self._options.v_switches))
        if error.code == SECURITY_GROUP_FULL:
            if OWN_SECURITY_GROUP in own:
                return False
            self._mark((placement.security_group_id,))
            return bool(self._free(self._options.security_groups))
        return error.reason == NO_STOCK and placement.spot and self._is_spot(work) and spot_fallback(own)

    def _is_spot(self, work: WorkSpec) -> bool:
        return work.annotations.get(PREFIX + "eci-spot-strategy", "NoSpot") != "NoSpot"

    def _free(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        now = self._clock()
        return tuple(each for each in ids if self._full.get(each, 0.0) <= now)

    def _mark(self, ids: tuple[str, ...] | list[str]) -> None:
        until = self._clock() + FULL_SECONDS
        self._full.update((each, until) for each in ids)
