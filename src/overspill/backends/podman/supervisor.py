"""The life of one pod: look, ask `plan.py` for the next step, take it, look again.

In: wakes (Podman's events, a create, a delete, a due time). Out: `Sighting`s to
the host's watchers. Invariant: one task per pod takes all of its steps, one
after the other; the task decides nothing that `plan.py` could. A step that was
lost half-way (Podman or the agent killed) is taken again and finds its traces.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import structlog
from msgspec import structs

from overspill.backends.base import ProbeCount
from overspill.backends.podman import plan
from overspill.backends.podman.folder import Record
from overspill.backends.podman.hooks import Hooks
from overspill.backends.podman.host import Host
from overspill.backends.podman.observe import observe
from overspill.backends.podman.prober import Prober
from overspill.backends.podman.reimaging import with_images
from overspill.backends.podman.resizing import trouble_key, with_resources
from overspill.backends.podman.seen import Deletion, Eviction, Run
from overspill.backends.podman.state import PodState
from overspill.backends.podman.stdin import Joined, Stdins
from overspill.backends.podman.steps import Steps
from overspill.backends.podman.turns import completed
from overspill.errors import OverspillError, Rejected
from overspill.model.observation import Gone, Observation
from overspill.model.work import Container, Resources, WorkSpec

__all__ = ["Supervisor"]

log = structlog.get_logger(__name__)


class Supervisor:
    """One pod's."""

    def __init__(self, host: Host, pod: PodState) -> None:
        self.pod = pod
        self._host = host
        self._hooks = Hooks(host, pod)
        self._prober = Prober(host, pod, self._probed)
        self._stdins = Stdins(host.podman)
        self._steps = Steps(host, pod, self._hooks)
        self._published: Observation | None = None

    def observation(self) -> Observation:
        """The pod as it stands now."""
        return observe(self.pod.identity, self.pod.work, self.pod.seen, self._host.clock())

    def probe_counts(self) -> Iterator[ProbeCount]:
        """How the pod's probes went."""
        return self._prober.counts()

    def delete(self, grace: float) -> None:
        """End the pod; asked again, only a sooner end counts."""
        asked = Deletion(self._host.clock(), grace)
        before = self.pod.deletion
        if before and before.at + before.grace <= asked.at + asked.grace:
            return
        self.pod.deletion = asked
        try:
            self.pod.folder.write_deletion(asked)
        except OSError as error:
            # The pod may be what has filled the disk; an agent that comes next is asked again.
            log.warning("deletion not written", pod=self.pod.identity.name, error=str(error))
        self._steps.interrupt()
        self.pod.notice()

    def add_ephemeral(self, containers: Sequence[Container]) -> None:
        """Record more ephemeral containers; the next turns start them."""
        pod = self.pod
        assert pod.work
        known = pod.work.ephemeral_containers
        names = {container.name for container in known}
        more = tuple(container for container in containers if container.name not in names)
        self._rewrite(structs.replace(pod.work, ephemeral_containers=(*known, *more)))

    def resize(self, resources: Mapping[str, Resources]) -> None:
        """Record other requests and limits of containers; the next turns see to them."""
        pod = self.pod
        assert pod.work
        for name in resources:
            pod.troubles.pop(trouble_key(name), None)
        self._rewrite(with_resources(pod.work, resources))

    def change_images(self, images: Mapping[str, str]) -> None:
        """Record other images of containers; the next turns run them."""
        pod = self.pod
        assert pod.work
        work = with_images(pod.work, images)
        if work == pod.work:
            return
        for name in images:
            pod.troubles.pop(name, None)
        self._rewrite(work)
        self._steps.interrupt()  # it may be an image that nobody wants any more

    def ended(self, run: Run) -> bool:
        """Whether a run writes no more."""
        now = self.pod.runs.get(run.id)
        return now is None or now.state == "exited"

    async def join(self, run: Run, *, stdin: bool) -> Joined:
        """Attach to a run whose stdin outlives its clients."""
        return Joined(
            self._host.podman,
            run.id,
            stdin=await self._stdins.of(run.id) if stdin else None,
            log=self.pod.folder.log(run.container, run.number),
            ended=lambda: self.ended(run),
        )

    def _rewrite(self, work: WorkSpec) -> None:
        """Something else is wanted of the pod from now on."""
        self.pod.folder.rewrite(Record(self.pod.taken_at, work))
        self.pod.work = work
        self.pod.notice()

    def evict(self, reason: str, message: str) -> None:
        """Give the pod up, unless it is at its end already."""
        pod = self.pod
        if pod.work is None or pod.deletion or pod.eviction or completed(pod.work, pod.seen):
            return
        pod.eviction = Eviction(self._host.clock(), reason, message)
        try:
            pod.folder.write_eviction(pod.eviction)
        except OSError as error:
            # The pod may be what has filled the disk; an agent that comes next measures anew.
            log.warning("eviction not written", pod=pod.identity.name, error=str(error))
        self._steps.interrupt()
        pod.notice()

    async def run(self) -> None:
        """Supervise until nothing of the pod is left."""
        async with asyncio.TaskGroup() as group:  # probes and hooks go on beside the steps
            self._hooks.group = self._stdins.group = group
            await self._supervise(group)
            self._hooks.leave()
            self._prober.leave()
            self._stdins.leave()

    async def _supervise(self, group: asyncio.TaskGroup) -> None:
        while True:
            self.pod.woken.clear()
            try:
                if await self._turn(group):
                    return
            except (OverspillError, OSError) as error:
                log.warning("pod step failed", pod=self.pod.identity.name, error=str(error))
                await self._after_failure()
            except Exception:  # whatever a pod asks for or has made, the agent and the other pods go on
                log.exception("pod step failed", pod=self.pod.identity.name)
                await self._after_failure()

    async def _after_failure(self) -> None:
        self.pod.doubt()
        await self._sleep(plan.PAUSE)

    async def _turn(self, group: asyncio.TaskGroup) -> bool:
        """One look and one step; True when the pod is gone."""
        decide = plan.next_step if await self._look() else plan.end_unseen
        self._hooks.attend()
        self._prober.attend(group)
        now = self._host.clock()
        step = decide(self.pod.work, self.pod.seen, now)
        self._publish()
        if isinstance(step, plan.Wait):
            await self._sleep(None if step.until is None else step.until - now)
            return False
        await self._steps.take(step)
        if not isinstance(step, plan.RemoveEverything):
            return False
        self._host.publish(Gone(self.pod.identity, self._published))
        return True

    async def _look(self) -> bool:
        """Whether Podman could tell of the pod; one that is deleted ends all the same."""
        try:
            await self.pod.look(self._host.podman)
        except Rejected as error:
            if self.pod.deletion is None:
                raise
            log.warning("pod ends by what is known of it", pod=self.pod.identity.name, error=str(error))
            return False
        return True

    def _probed(self) -> None:
        """A probe has changed something, perhaps in the middle of a long step: say so at once."""
        self._publish()
        if any(marks.doomed for marks in self.pod.marks.values()):
            self._steps.interrupt()

    def _publish(self) -> None:
        observation = self.observation()
        if observation != self._published:
            self._published = observation
            self._host.publish(observation)

    async def _sleep(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.pod.woken.wait()
