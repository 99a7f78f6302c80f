"""The probes of one pod, beside its steps: one task for each probe of each run.

In: what is seen of the pod, on every turn. Out: marks on its runs, what
`Happened`. Invariant: exactly those are probed that `due_probes` names; an
answer that cannot be had for Podman's sake counts for nothing.
"""

import asyncio
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator

import structlog

from overspill.backends.base import TOOK_BOUNDS, ProbeCount
from overspill.backends.podman.actions import ask
from overspill.backends.podman.hooks import place_of
from overspill.backends.podman.host import Host, tell
from overspill.backends.podman.place import Outcome
from overspill.backends.podman.probes import Kind, Standing, due_probes, first_at, judge, marked, next_at
from overspill.backends.podman.seen import NO_MARKS, Run
from overspill.backends.podman.state import PodState
from overspill.backends.podman.turns import all_containers
from overspill.errors import OverspillError, Rejected
from overspill.model.work import Container, Probe

__all__ = ["Prober"]

log = structlog.get_logger(__name__)

Key = tuple[str, Kind]


class Tally:
    """How one probe of a container went, over all its runs."""

    __slots__ = ("failed", "seconds", "successful", "took")

    def __init__(self) -> None:
        self.successful = self.failed = 0
        self.took = [0] * (len(TOOK_BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, *, healthy: bool, seconds: float) -> None:
        """Count one answer; a failure's time says nothing, as with the kubelet."""
        if not healthy:
            self.failed += 1
            return
        self.successful += 1
        self.took[bisect_left(TOOK_BOUNDS, seconds)] += 1
        self.seconds += seconds


class Prober:
    """One pod's. `changed` is called after each verdict that changes something."""

    def __init__(self, host: Host, pod: PodState, changed: Callable[[], None]) -> None:
        self._host = host
        self._pod = pod
        self._changed = changed
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._tallies: dict[tuple[str, Kind], Tally] = {}
        self._since = host.clock()

    def attend(self, group: asyncio.TaskGroup) -> None:
        """Probe what is to be probed, and nothing else."""
        probed = [c for c in all_containers(self._pod.work) if c.readiness or c.liveness or c.startup]
        if not probed and not self._tasks:
            return
        seen = self._pod.seen
        due = {
            (run.id, kind): (container, run, probe)
            for container in probed
            for run in seen.runs_of(container.name)[:1]
            for kind, probe in due_probes(container, run, seen)
        }
        for key in self._tasks.keys() - due.keys():
            self._tasks.pop(key).cancel()
        for key, (container, run, probe) in due.items():
            if key not in self._tasks:
                self._tasks[key] = group.create_task(self._probe(container, run, key[1], probe))

    def leave(self) -> None:
        """Ask nobody any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def counts(self) -> Iterator[ProbeCount]:
        """How the pod's probes went."""
        for (container, kind), tally in self._tallies.items():
            yield ProbeCount(
                self._pod.identity,
                container,
                kind,
                tally.successful,
                tally.failed,
                tuple(tally.took),
                tally.seconds,
            )

    async def _probe(self, container: Container, run: Run, kind: Kind, probe: Probe) -> None:
        clock = self._host.clock
        # What ran before this process did is not asked all at once.
        adopted = run.started_at < self._since
        spread = random.random() * probe.period_seconds if adopted else 0.0  # noqa: S311 - spreads load
        jitter = random.random()  # noqa: S311 - as said
        at = first_at(kind, probe, began=run.started_at, now=clock() + spread, jitter=jitter)
        standing = Standing(verdict=True) if self._holds(run, kind) else Standing()
        while True:
            await asyncio.sleep(max(at - clock(), 0.0))
            begun = clock()
            outcome = await self._ask(container, run, kind, probe)
            if outcome:
                tally = self._tallies.setdefault((container.name, kind), Tally())
                tally.add(healthy=outcome.healthy, seconds=clock() - begun)
                before, standing = standing, judge(probe, standing, healthy=outcome.healthy)
                if standing.verdict is not None and standing.verdict != before.verdict:
                    self._take(container, run, kind, verdict=standing.verdict)
            at = next_at(probe, begun=begun, now=clock())

    def _holds(self, run: Run, kind: Kind) -> bool:
        return kind == "Readiness" and self._pod.marks.get(run.id, NO_MARKS).ready

    async def _ask(self, container: Container, run: Run, kind: Kind, probe: Probe) -> Outcome | None:
        try:
            place = place_of(self._host, self._pod, run)
            outcome = await ask(probe.handler, place, float(probe.timeout_seconds))
        except OverspillError as error:
            log.info("probe errored", pod=self._pod.identity.name, container=container.name, error=str(error))
            if isinstance(error, Rejected):
                self._tell(
                    container, "Unhealthy", f"{kind} probe errored and resulted in unknown state: {error}"
                )
            return None
        except Exception as error:  # whatever a pod makes of its probe, the agent and the other pods go on
            log.exception("probe failed", pod=self._pod.identity.name, container=container.name)
            outcome = Outcome(healthy=False, output=str(error))
        if not self._still_runs(run):
            return None
        if outcome.warning:
            self._tell(container, "ProbeWarning", f"{kind} probe warning: {outcome.output}")
        elif not outcome.healthy:
            self._tell(container, "Unhealthy", f"{kind} probe failed: {outcome.output}")
        return outcome

    def _still_runs(self, run: Run) -> bool:
        """Whether an answer is still about the run that was asked."""
        now = self._pod.runs.get(run.id)
        return now is not None and now.state == "running"

    def _take(self, container: Container, run: Run, kind: Kind, *, verdict: bool) -> None:
        before = self._pod.marks.get(run.id, NO_MARKS)
        after = marked(kind, verdict, before, self._host.clock())
        if after == before:
            return
        self._pod.mark(run.id, after)
        if after.doomed and not before.doomed:
            message = f"Container {container.name} failed {kind.lower()} probe"
            again = ", will be restarted" if self._restarts(container) else ""
            self._tell(container, "Killing", message + again, warning=False)
        self._changed()

    def _restarts(self, container: Container) -> bool:
        work = self._pod.work
        return work is not None and (container.restart_policy or work.restart_policy) != "Never"

    def _tell(self, container: Container, reason: str, message: str, *, warning: bool = True) -> None:
        tell(self._host, self._pod, container.name, reason, message, warning=warning)
