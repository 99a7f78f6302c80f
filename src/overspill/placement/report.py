"""Writes the policies' statuses.

In: policies that were looked at. Out: one merge patch of status when it differs from what was last written, at
most once a second for each policy. Invariant: what is written is how things are at the moment of writing.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from overspill.errors import Conflict, NotFound
from overspill.kube.client import MERGE, Client
from overspill.kube.queue import Queue
from overspill.kube.resources import PLACEMENT_POLICIES
from overspill.placement.conditions import Facts
from overspill.placement.explain import why_waiting
from overspill.placement.managed import Managed
from overspill.placement.match import PolicyKey
from overspill.placement.policy import Condition
from overspill.placement.status import status_of

__all__ = ["Reporter"]

PAUSE = 1.0
encoder = msgspec.json.Encoder(order="deterministic")


class Reporter:
    """Writes statuses."""

    def __init__(
        self,
        client: Client,
        managed: Callable[[PolicyKey], Managed | None],
        desired: Callable[[Managed], int | None],
    ) -> None:
        """`desired` tells how many pods a policy's workload wants, None when there is no such workload."""
        self._client = client
        self._managed = managed
        self._desired = desired
        self._written: dict[PolicyKey, tuple[str, bytes]] = {}  # uid and status
        self._at: dict[PolicyKey, float] = {}
        self.queue: Queue[PolicyKey] = Queue(self._write, name="placement-status", workers=4)

    def report(self, name: PolicyKey) -> None:
        """Have a policy's status looked at, soon."""
        self.queue.add(name, after=max(self._at.get(name, 0.0) + PAUSE - time.monotonic(), 0.0))

    async def _write(self, name: PolicyKey) -> None:
        managed = self._managed(name)
        if managed is None:
            self._at.pop(name, None)
            self._written.pop(name, None)
            return
        self._at[name] = time.monotonic()
        status = self._status(managed)
        body = encoder.encode(status)
        uid = managed.policy.metadata.uid
        if self._written.get(name) == (uid, body):
            return
        try:
            await self._client.patch(
                PLACEMENT_POLICIES,
                name[1],
                {"metadata": {"uid": uid}, "status": status},
                namespace=name[0],
                subresource="status",
                content_type=MERGE,
            )
        except (NotFound, Conflict):
            self._written.pop(name, None)
            return
        self._written[name] = uid, body
        managed.conditions = msgspec.convert(status["conditions"], tuple[Condition, ...])

    def _status(self, managed: Managed) -> dict[str, Any]:
        desired, state = self._desired(managed), managed.state
        now, wall = time.monotonic(), time.time()
        cooldowns = {
            pool.name: _timestamp(wall + until - now)
            for pool in managed.policy.spec.pools
            if (until := managed.cooldowns.until(pool.name, now)) is not None
        }
        waiting = [managed.reasons[uid] for uid in state.waiting if uid in managed.reasons]
        facts = Facts(
            managed.policy,
            desired=desired or 0,
            found=desired is not None,
            waiting=len(waiting),
            why=why_waiting(managed.policy, waiting[0]) if waiting else "",
            trouble=managed.stuck
            | {name: f"is left alone for a while: {managed.cooldowns.why(name)}" for name in cooldowns},
            older=managed.older,
            peak=len({seat.revision for seat in state.seats.values()}),
        )
        return status_of(state, facts, before=managed.conditions, cooldowns=cooldowns, now=_timestamp(wall))


def _timestamp(seconds: float) -> str:
    """Whole seconds, as metav1.Time has them."""
    return datetime.fromtimestamp(round(seconds), UTC).isoformat().replace("+00:00", "Z")
