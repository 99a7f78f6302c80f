"""Which one of several replicas works: leader election by a Lease.

In: a Lease's name, a task. Out: the task runs while this process holds the Lease. Invariants: work stops before
another replica can begin, whatever the clocks of the two say and however slow the apiserver: a holder trusts its Lease
for less time after it sent its last renewal than others wait after they had read it; no clock is compared with another's.
Source: client-go, tools/leaderelection/leaderelection.go, whose times and fields these are.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Retry
from overspill.kube.client import Client
from overspill.kube.refusals import Refusals
from overspill.kube.resources import LEASES
from overspill.metrics import LEADER

__all__ = ["Leader", "Vacancy"]

log = structlog.get_logger(__name__)

# The defaults of Kubernetes' own components.
LEASE_DURATION = 15.0
RENEW_DEADLINE = 10.0
RETRY_PERIOD = 2.0
RELEASE_TIMEOUT = 2.0
JITTER = 1.2


class _Meta(Struct, rename="camel"):
    resource_version: str = ""


class _Spec(Struct, frozen=True, rename="camel"):
    holder_identity: str = ""
    lease_duration_seconds: int = int(LEASE_DURATION)
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class _Lease(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class Vacancy:
    """Looks at a Lease that it does not want: whether nobody leads.

    Nobody does when, for as long as a candidate would wait, no holder was seen to renew it. No clock is compared
    with another's here either, so the first answer takes that long.
    """

    def __init__(
        self, client: Client, name: str, *, namespace: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` tells seconds and never goes back."""
        self._client = client
        self._name = name
        self._namespace = namespace
        self._clock = clock
        self._seen = _Spec()
        self._lived_at = clock()
        self._refusals = Refusals()

    async def look(self) -> bool:
        """Whether nobody leads now.

        Raises:
            OverspillError: it cannot be told.
        """
        began = self._clock()
        try:
            found = await self._client.get(LEASES, self._name, namespace=self._namespace, kind=_Lease)
        except NotFound:
            self._refusals.allow()
            return began - self._lived_at > LEASE_DURATION
        except Misconfigured as error:
            if self._refusals.believe(began):
                raise
            raise Retry(str(error)) from error
        self._refusals.allow()
        if found.spec != self._seen:
            self._seen = found.spec
            if found.spec.holder_identity:
                self._lived_at = self._clock()
        return began - self._lived_at > max(LEASE_DURATION, found.spec.lease_duration_seconds)


class Leader:
    """One candidate for one Lease.

    Attributes:
        leads: whether it holds the Lease, as far as it knows; `sure` is the question to ask before a write.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        namespace: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` must be another in every process; `clock` tells seconds and never goes back."""
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._seen = _Lease()
        self._seen_at = 0.0
        self._renewed = 0.0
        self._refusals = Refusals()
        self.leads = False
        LEADER.labels(name).set_function(lambda: self.leads)

    @property
    def sure(self) -> bool:
        """Whether no other can lead yet: also after this process was stopped for a while."""
        return self.leads and self._clock() - self._renewed < RENEW_DEADLINE

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, work while it is held, and begin again when it is lost; until cancelled.

        Raises:
            Misconfigured: this account may not use the Lease. Whatever `work` raises.
        """
        while True:
            await self._acquire()
            log.info("leading", lease=self._name, identity=self._identity)
            try:
                await self._work(work)
            finally:
                self.leads = False
                await self._release()
            log.warning("no longer leading", lease=self._name, identity=self._identity)

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(_never_ending(work), name=f"work under lease {self._name}")
            await self._renew_until_lost()
            self.leads = False
            working.cancel()

    async def _acquire(self) -> None:
        while not await self._try():  # noqa: ASYNC110 - nobody in this process knows when
            await asyncio.sleep(RETRY_PERIOD * random.uniform(1.0, JITTER))  # noqa: S311 - candidates drift apart
        self.leads = True

    async def _renew_until_lost(self) -> None:
        while True:
            await asyncio.sleep(min(RETRY_PERIOD, max(self._left(), 0.0)))
            if self._left() <= 0:  # checked first: after a long stop another may have begun
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._left()):
                    if not await self._try() and self._seen.spec.holder_identity not in {self._identity, ""}:
                        return

    def _left(self) -> float:
        return self._renewed + RENEW_DEADLINE - self._clock()

    async def _try(self) -> bool:
        """Take or renew the Lease; False when another has it, or it cannot be told."""
        try:
            taken = await self._take()
        except OverspillError as error:
            if isinstance(error, Misconfigured) and self._refusals.believe(self._clock()):
                raise
            log.warning("lease not written", lease=self._name, error=str(error))
            return False
        self._refusals.allow()
        return taken

    async def _take(self) -> bool:
        # Who leads need not read it: nobody else writes it meanwhile, and another's version is refused.
        if self.leads and await self._write(self._seen, mine=True):
            return True
        began = self._clock()
        try:
            found = await self._client.get(LEASES, self._name, namespace=self._namespace, kind=_Lease)
        except NotFound:
            return await self._create()
        if found.spec != self._seen.spec:
            self._seen, self._seen_at = found, self._clock()
        mine = found.spec.holder_identity == self._identity
        if found.spec.holder_identity and not mine and not self._run_out(found, began):
            return False
        return await self._write(found, mine=mine)

    async def _create(self) -> bool:
        began, body = self._clock(), self._body(_Lease(), mine=False)
        try:
            written = await self._client.create(LEASES, body, namespace=self._namespace, kind=_Lease)
        except Conflict:
            return False
        self._note(written, began)
        return True

    async def _write(self, found: _Lease, *, mine: bool) -> bool:
        began, body = self._clock(), self._body(found, mine=mine)
        try:
            written = await self._client.update(
                LEASES, self._name, body, namespace=self._namespace, kind=_Lease, retry=False
            )
        except (Conflict, NotFound):
            return False
        self._note(written, began)
        return True

    def _run_out(self, found: _Lease, now: float) -> bool:
        return now - self._seen_at > found.spec.lease_duration_seconds

    def _note(self, written: _Lease, began: float) -> None:
        self._seen, self._seen_at, self._renewed = written, began, began

    async def _release(self) -> None:
        """Let a successor begin at once, unless another has begun already."""
        if self._seen.spec.holder_identity != self._identity:
            return
        with contextlib.suppress(OverspillError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT):
                try:
                    await self._let_go(self._seen)
                except Conflict:  # as when a renewal was cut off after it had been stored
                    found = await self._client.get(LEASES, self._name, namespace=self._namespace, kind=_Lease)
                    if found.spec.holder_identity == self._identity:
                        await self._let_go(found)

    async def _let_go(self, found: _Lease) -> None:
        body = self._body(found, mine=True)
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        await self._client.update(
            LEASES, self._name, body, namespace=self._namespace, kind=_Lease, retry=False
        )

    def _body(self, found: _Lease, *, mine: bool) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        metadata = {"name": self._name, "namespace": self._namespace}
        if found.metadata.resource_version:
            metadata["resourceVersion"] = found.metadata.resource_version
        changes = found.spec.lease_transitions + (not mine and bool(found.metadata.resource_version))
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(LEASE_DURATION),
                "acquireTime": found.spec.acquire_time if mine else now,
                "renewTime": now,
                "leaseTransitions": changes,
            },
        }


async def _never_ending(work: Callable[[], Awaitable[None]]) -> None:
    await work()
    raise AssertionError("work that is led must go on until it is cancelled")
