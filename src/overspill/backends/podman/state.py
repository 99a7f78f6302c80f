"""What the supervisor remembers of its pod between two looks.

In: Podman's answers about single containers, notices of what changed. Out: a
`Seen`. Invariant: only containers that were noticed, or whose state may still
change after a break, are inspected anew; an ended one never changes again.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import structlog
from msgspec import structs

from overspill.backends.podman.api import ContainerInspect, Podman
from overspill.backends.podman.folder import Folder
from overspill.backends.podman.inspect import run_of, sandbox_of
from overspill.backends.podman.marks import forget_marks, read_marks, write_marks
from overspill.backends.podman.messages import forget_message, last_words
from overspill.backends.podman.seen import Deletion, Eviction, Marks, PulledImage, Run, Sandbox, Seen, Trouble
from overspill.backends.podman.tags import pod_name
from overspill.backends.podman.turns import all_containers, is_over
from overspill.errors import NotFound, Rejected
from overspill.model.work import Container, Identity, WorkSpec

__all__ = ["PodState"]

log = structlog.get_logger(__name__)

SIGKILLED = 137


class PodState:
    """One pod's. Attributes are as in `Seen`."""

    def __init__(
        self, identity: Identity, folder: Folder, *, work: WorkSpec | None, taken_at: float, oom_is_told: bool
    ) -> None:
        self.identity = identity
        self.folder = folder
        self.work = work
        self.taken_at = taken_at
        self.sandbox: Sandbox | None = None
        self.runs = {run.id: run for run in folder.ended()} if work else {}
        self.images: dict[str, PulledImage] = {}
        self.troubles: dict[str, Trouble] = {}
        self.signalled: dict[str, int] = {}
        self.asked: dict[str, float] = {}
        self.marks: dict[str, Marks] = {}
        self.deletion: Deletion | None = folder.deletion()
        self.eviction: Eviction | None = folder.eviction()
        self.unknown = False
        self.woken = asyncio.Event()
        self._oom_is_told = oom_is_told
        self._stale: set[str] = set()
        for run in self.runs.values():
            self._recall(run)

    @property
    def seen(self) -> Seen:
        """All that is known of the pod."""
        return Seen(
            taken_at=self.taken_at,
            sandbox=self.sandbox,
            runs=tuple(self.runs.values()),
            images=dict(self.images),
            troubles=dict(self.troubles),
            signalled=dict(self.signalled),
            asked=dict(self.asked),
            marks=dict(self.marks),
            deletion=self.deletion,
            eviction=self.eviction,
            unknown=self.unknown,
        )

    def notice(self, containers: Iterable[str] = ()) -> None:
        """Something happened to the pod, or to these of its containers."""
        self._stale.update(containers)
        self.woken.set()

    def mark(self, run: str, marks: Marks) -> None:
        """Remember what Podman does not know of a run."""
        self.marks[run] = marks
        try:
            write_marks(self.folder, run, marks)
        except OSError as error:  # a full disk: the agent that comes next will ask the probes again
            log.warning("marks not written", pod=self.identity.name, error=str(error))
        self.woken.set()

    def keep(self, run: Run) -> None:
        """Know a run as it is now; one that has ended for good is known whatever becomes of its container."""
        before = self.runs.get(run.id)
        self.runs[run.id] = run
        if run == before or not self._is_over(run):
            return
        try:
            self.folder.write_ended(run)
        except OSError as error:  # a full disk: an agent that comes next asks Podman
            log.warning("end not written", pod=self.identity.name, error=str(error))

    def _is_over(self, run: Run) -> bool:
        return self.work is not None and is_over(self.work, run, self.seen)

    def begin_anew(self) -> None:
        """The sandbox is a new one: init containers have done nothing for it yet."""
        for run in self.init_runs:
            self.forget(run)
            self.folder.forget_ended(run)

    @property
    def init_runs(self) -> tuple[Run, ...]:
        """The runs of init containers."""
        return self._runs_of(self.work.init_containers) if self.work else ()

    @property
    def ephemeral_runs(self) -> tuple[Run, ...]:
        """The runs of ephemeral containers."""
        return self._runs_of(self.work.ephemeral_containers) if self.work else ()

    def _runs_of(self, containers: Iterable[Container]) -> tuple[Run, ...]:
        names = {container.name for container in containers}
        return tuple(run for run in self.runs.values() if run.container in names)

    def forget(self, run: Run) -> None:
        """A run was removed: remove what it has left, too."""
        self.runs.pop(run.id, None)
        self.signalled.pop(run.id, None)
        self.asked.pop(run.id, None)
        forget_message(self.folder, run)
        self.folder.log(run.container, run.number).unlink(missing_ok=True)
        if self.marks.pop(run.id, None):
            forget_marks(self.folder, run.id)

    def doubt(self) -> None:
        """Something may have been missed: whatever may have changed is to be looked at next time."""
        ended = {run.id for run in self.runs.values() if run.state == "exited"}
        infra = {self.sandbox.infra} if self.sandbox and self.sandbox.infra else set()
        self._stale |= (self.runs.keys() | infra) - ended

    async def look(self, podman: Podman) -> None:
        """Inspect what was noticed.

        Raises:
            Rejected: Podman cannot tell of some container; the others are known now.
        """
        self._look_at_folder()
        refused: dict[str, Rejected] = {}
        while readable := self._stale - refused.keys():
            container = next(iter(readable))
            self._stale.discard(container)  # first: what is noticed meanwhile may be later than the answer
            try:
                await self._inspect(podman, container)
            except BaseException as error:
                self._stale.add(container)
                if not isinstance(error, Rejected):
                    raise
                refused[container] = error
        if refused:
            raise next(iter(refused.values()))
        self.unknown = False

    def _look_at_folder(self) -> None:
        """Another agent of this node may have ended the pod, as one that is just being replaced can see."""
        if self.deletion is None:
            self.deletion = self.folder.deletion()
        if self.work and not self.folder.exists():
            self.work = None
            self._stale |= self.runs.keys()

    async def find_sandbox(self, podman: Podman) -> None:
        """Look for the pod by its name, instead of by what is remembered of it."""
        try:
            pod = await podman.pod(pod_name(self.identity))
        except NotFound:
            self.sandbox = None
            return
        self.sandbox = Sandbox(pod.id, pod.infra_id)
        if pod.infra_id:
            with suppress(NotFound):
                self.sandbox = sandbox_of(pod.id, await podman.inspect(pod.infra_id))

    async def _inspect(self, podman: Podman, container: str) -> None:
        try:
            self._note(await podman.inspect(container))
        except NotFound:
            run = self.runs.get(container)
            if run and not self._is_over(run):
                del self.runs[container]
            if self.sandbox and self.sandbox.infra == container:
                await self.find_sandbox(podman)

    def _note(self, found: ContainerInspect) -> None:
        if self.sandbox and self.sandbox.infra == found.id:
            self.sandbox = sandbox_of(self.sandbox.id, found)
            return
        run = run_of(found)
        if run and not self.runs.get(run.id, run).failure:
            if run.id not in self.runs:
                self._recall(run)
            self.keep(self._with_words(self._with_oom(run)))

    def _with_words(self, run: Run) -> Run:
        if run.state != "exited":
            return run
        container = next((c for c in all_containers(self.work) if c.name == run.container), None)
        words = last_words(self.folder, container, run) if container else ""
        return structs.replace(run, message=words) if words else run

    def _recall(self, run: Run) -> None:
        """What an earlier agent has left about a run."""
        for container in all_containers(self.work):
            own = container.name == run.container
            if own and (marks := read_marks(self.folder, run.id, container)):
                self.marks[run.id] = marks

    def _with_oom(self, run: Run) -> Run:
        """Version 1 cgroups do not tell Podman reliably of the out-of-memory killer.

        There, the SIGKILL of a container with a memory limit that nobody here
        sent is taken for its work.
        """
        if self._oom_is_told or run.exit_code != SIGKILLED or run.id in self.signalled or self.deletion:
            return run
        limited = any(c.name == run.container and c.resources.memory_limit for c in all_containers(self.work))
        return structs.replace(run, oom_killed=True) if limited else run
