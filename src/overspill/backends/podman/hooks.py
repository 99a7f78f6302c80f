"""The postStart and preStop hooks of one pod, beside its steps.

In: runs whose hook is due. Out: marks on those runs, what `Happened`.
Invariant: a hook is marked before it begins and once it has ended, and is begun
once for a run; a failed postStart dooms its run.
Source: https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/
"""

from asyncio import Task, TaskGroup  # noqa: TC003 - mypy has to know them, and so has the reader
from collections.abc import Iterable
from typing import Literal

import structlog
from msgspec import structs

from overspill.backends.podman.actions import run_hook
from overspill.backends.podman.host import Host, tell
from overspill.backends.podman.place import Place
from overspill.backends.podman.seen import NO_MARKS, Hook, Run
from overspill.backends.podman.state import PodState
from overspill.backends.podman.turns import all_containers
from overspill.errors import OverspillError
from overspill.model.work import HookAction

__all__ = ["Hooks", "place_of"]

log = structlog.get_logger(__name__)

Kind = Literal["post_start", "pre_stop"]
WORDS = {"post_start": "PostStart", "pre_stop": "PreStop"}


def place_of(host: Host, pod: PodState, run: Run) -> Place:
    """Where a run is asked something."""
    sandbox = pod.sandbox
    address = sandbox.ips[0] if sandbox and sandbox.ips else run.address
    return Place(host.podman, run.id, address, sandbox.namespace if sandbox else "")


class Hooks:
    """One pod's."""

    def __init__(self, host: Host, pod: PodState) -> None:
        self._host = host
        self._pod = pod
        self._tasks: dict[str, Task[None]] = {}
        self.group: TaskGroup | None = None

    def begin(self, runs: Iterable[Run], kind: Kind) -> None:
        """Begin the hook of each run."""
        actions = {container.name: getattr(container, kind) for container in all_containers(self._pod.work)}
        for run in runs:
            self._note(run, kind, Hook(self._host.clock()))
            self._drop(run.id)
            if self.group:
                self._tasks[run.id] = self.group.create_task(self._run(run, kind, actions[run.container]))

    def attend(self) -> None:
        """Let go of hooks whose container has ended."""
        for run_id in list(self._tasks):
            run = self._pod.runs.get(run_id)
            if run is None or run.state != "running":
                self._drop(run_id)

    def leave(self) -> None:
        """Let go of all."""
        for run_id in list(self._tasks):
            self._drop(run_id)

    def _drop(self, run: str) -> None:
        if task := self._tasks.pop(run, None):
            task.cancel()

    async def _run(self, run: Run, kind: Kind, action: HookAction) -> None:
        try:
            why = await run_hook(action, place_of(self._host, self._pod, run))
        except OverspillError as error:
            why = str(error)
        except Exception as error:  # whatever a pod makes of its hook, the agent and the other pods go on
            log.exception("hook broke", pod=self._pod.identity.name, container=run.container, hook=kind)
            why = repr(error)
        begun = self._hook(run, kind)
        ended = Hook(begun.at if begun else 0.0, self._host.clock(), bool(why))
        if not why:
            self._note(run, kind, ended)
            return
        # Its output may hold a secret: it is for the log, not for an Event.
        log.info("hook failed", pod=self._pod.identity.name, container=run.container, hook=kind)
        self._tell(run, f"Failed{WORDS[kind]}Hook", f"{WORDS[kind]}Hook failed")
        if kind == "post_start":
            self._tell(run, "Killing", "FailedPostStartHook", warning=False)
        self._note(run, kind, ended)

    def _hook(self, run: Run, kind: Kind) -> Hook | None:
        marks = self._pod.marks.get(run.id, NO_MARKS)
        return marks.post_start if kind == "post_start" else marks.pre_stop

    def _note(self, run: Run, kind: Kind, hook: Hook) -> None:
        marks = self._pod.marks.get(run.id, NO_MARKS)
        if kind == "pre_stop":
            self._pod.mark(run.id, structs.replace(marks, pre_stop=hook))
            return
        marks = structs.replace(marks, post_start=hook)
        if hook.failed and hook.ended is not None:
            marks = structs.replace(marks, doomed="PostStart", doomed_at=hook.ended)
        self._pod.mark(run.id, marks)

    def _tell(self, run: Run, reason: str, message: str, *, warning: bool = True) -> None:
        tell(self._host, self._pod, run.container, reason, message, warning=warning)
