"""Taking the steps that `plan.py` decides: the only place where pods are changed in Podman.

In: a `Step` and the `PodState`. Out: calls to Podman, and the state brought up
to date with their outcome. Invariant: a step taken twice does no harm, since
whatever it makes has a name of its own; a step that Podman refuses leaves a
`Trouble` behind, which says when to try again.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import structlog
from msgspec import structs

from overspill.backends.podman import bodies, plan, volumes
from overspill.backends.podman.client import PodmanError
from overspill.backends.podman.hooks import Hooks
from overspill.backends.podman.host import Host, tell
from overspill.backends.podman.hostprocess import kill_member
from overspill.backends.podman.messages import prepare_message
from overspill.backends.podman.observe import PULL_FAILED
from overspill.backends.podman.pull import PullFailure
from overspill.backends.podman.resizing import trouble_key
from overspill.backends.podman.security import ConfigError, verify_non_root
from overspill.backends.podman.seen import NO_MARKS, Run, Sandbox, Trouble
from overspill.backends.podman.state import PodState
from overspill.backends.podman.subpaths import mount_sources
from overspill.backends.podman.tags import keeper_name, pod_filters, pod_name, volume_name
from overspill.backends.podman.turns import all_containers, next_delay
from overspill.errors import Conflict, NotFound, Rejected, Retry
from overspill.model.work import Container, WorkSpec

__all__ = ["Steps"]

log = structlog.get_logger(__name__)

TROUBLE_BASE, TROUBLE_CAP = 1.0, 60.0  # seconds between attempts at what Podman refused
# Podman's words for errors of the container's own command line; all others are not the pod's doing.
COMMAND_ERRORS = ("OCI runtime attempted to invoke", "OCI permission denied", "OCI runtime error", "workdir ")
# What runc says when Podman was killed between making the process and noting that it did.
HALF_STARTED = "container with given ID already exists"
SIGKILL = 9
# Why a container that runs well is ended, in the kubelet's words.
RESTARTS = {"Resize": "resize requires restart", "Image": "definition changed, will be restarted"}


class Steps:
    """The steps of one pod."""

    def __init__(self, host: Host, pod: PodState, hooks: Hooks) -> None:
        self._host = host
        self._podman = host.podman
        self._pod = pod
        self._hooks = hooks
        self._pulling: asyncio.Timeout | None = None

    def _tell(self, container: str, reason: str, message: str) -> None:
        tell(self._host, self._pod, container, reason, message, warning=False)

    def interrupt(self) -> None:
        """Give up a pull under way: the pod is to end."""
        if self._pulling and not self._pulling.expired():
            self._pulling.reschedule(asyncio.get_running_loop().time())

    async def take(self, step: plan.Step) -> None:
        """Take one step."""
        match step:
            case plan.RunHooks(runs, hook):
                self._hooks.begin(runs, hook)
            case plan.Signal(runs, kill):
                await self._signal(runs, kill=kill)
            case plan.Resize():
                await self._resize(step)
            case plan.Restart(run, why):
                self._restart(run, why)
            case plan.Pull():
                await self._pull(step)
            case plan.Wait():
                return
            case _:
                async with self._host.slots:
                    await self._make(step)

    async def _make(self, step: plan.Step) -> None:
        match step:
            case plan.CreateSandbox():
                await self._troubled("", "FailedCreatePodSandBox", self._create_sandbox())
            case plan.StartSandbox():
                await self._troubled("", "FailedCreatePodSandBox", self._start_sandbox())
            case plan.CreateRun():
                await self._troubled(step.container.name, "CreateContainerError", self._create_run(step))
            case plan.StartRun(run):
                await self._start_run(run)
            case plan.StopSandbox():
                await self._stop_sandbox()
            case plan.RemoveSandbox():
                await self._remove_sandbox()
            case plan.Discard(runs):
                await self._discard(runs)
            case plan.RemoveEverything():
                await self._remove_everything()

    # --- sandbox ---

    async def _create_sandbox(self) -> None:
        work = self._pod.work
        assert work
        self._pod.begin_anew()
        await asyncio.to_thread(volumes.prepare, self._pod.folder, work)
        for name, volume in volumes.memory_volumes(work).items():
            with suppress(Conflict):
                await self._podman.create_volume(bodies.volume_body(work, name, volume))
        with suppress(Conflict):
            await self._podman.create_pod(bodies.pod_body(work, self._host.network))
        await self._pod.find_sandbox(self._podman)

    async def _start_sandbox(self) -> None:
        work, sandbox = self._pod.work, self._pod.sandbox
        assert work
        assert sandbox
        # What init containers have done may have been to the network that is gone. Podman removes none of them
        # before an ephemeral container that sees its processes.
        for run in (*self._pod.ephemeral_runs, *self._pod.init_runs):
            await self._podman.remove_container(run.id)
        self._pod.begin_anew()
        try:
            await self._podman.start(sandbox.infra)
        except PodmanError as error:
            if HALF_STARTED in str(error):
                await self._reap(sandbox.infra)
                await self._remove_sandbox()
            raise
        await self._pod.find_sandbox(self._podman)
        sandbox = self._pod.sandbox
        if not sandbox or not sandbox.ips:
            raise PodmanError(f"the pod has no address in network {self._host.network!r}")

    async def _keep_memory(self, work: WorkSpec, sandbox: Sandbox) -> None:
        """Have the volumes in memory kept mounted, whatever runs."""
        if not volumes.memory_volumes(work):
            return
        infra = await self._podman.inspect(sandbox.infra)
        keeper = await self._create_container(bodies.keeper_body(work, sandbox, infra.image))
        try:
            await self._podman.start(keeper)
        except PodmanError as error:
            if HALF_STARTED in str(error):
                await self._reap(keeper)
                await self._podman.remove_container(keeper)
            raise

    async def _stop_sandbox(self) -> None:
        sandbox, work = self._pod.sandbox, self._pod.work
        if sandbox:
            if work and volumes.memory_volumes(work):
                await self._podman.stop(keeper_name(work.identity))
            await self._podman.stop(sandbox.infra)
            await self._pod.find_sandbox(self._podman)

    async def _remove_sandbox(self) -> None:
        await self._podman.remove_pod(pod_name(self._pod.identity))
        await self._pod.find_sandbox(self._podman)

    async def _remove_everything(self) -> None:
        pod, identity = self._pod, self._pod.identity
        await self._podman.remove_pod(pod_name(identity))
        if await self._podman.pod_exists(pod_name(identity)):
            raise Retry(f"Podman still has {pod_name(identity)} after its removal")
        for name in await self._volumes_in_memory():
            await self._podman.remove_volume(name)
        await asyncio.to_thread(pod.folder.remove)

    async def _volumes_in_memory(self) -> list[str]:
        """By the record, or where that is lost by their labels."""
        work, identity = self._pod.work, self._pod.identity
        if work:
            return [volume_name(identity, name) for name in volumes.memory_volumes(work)]
        return [volume.name for volume in await self._podman.volumes(pod_filters(identity))]

    # --- containers ---

    async def _pull(self, step: plan.Pull) -> None:
        pod, name = self._pod, step.container.name
        credentials = pod.work.registry_credentials if pod.work else ()
        before = pod.troubles.get(name)
        if before and before.reason not in PULL_FAILED:
            before = None  # of the container's start: that one goes on, whatever becomes of the pull
        try:
            async with asyncio.timeout(None) as self._pulling:
                pod.images[name] = await self._host.puller.have(
                    step.container, step.number, credentials, tell=partial(self._tell, name)
                )
        except TimeoutError:
            return  # interrupted: the plan has other things to do now
        except PullFailure as failure:
            delay = None if failure.final else next_delay(before.delay if before else None)
            pod.troubles[name] = Trouble(failure.reason, str(failure), self._host.clock(), delay)
        else:
            if before:
                pod.troubles.pop(name, None)
        finally:
            self._pulling = None

    async def _create_run(self, step: plan.CreateRun) -> None:
        pod, name = self._pod, step.container.name
        assert pod.work
        assert pod.sandbox
        work = pod.work.with_address(pod.sandbox.ips[0])
        container = next(c for c in all_containers(work) if c.name == name)
        if pod.images[name].name != container.image:
            return  # it has changed while the step waited for its turn: that image is to be pulled first
        verify_non_root(work, container, pod.images[name])
        pod.folder.hosts.write_text(volumes.hosts_file(work, pod.sandbox.ips[0]))
        prepare_message(pod.folder, name, step.number)
        await self._keep_memory(work, pod.sandbox)
        body = bodies.container_body(
            work,
            structs.replace(step, container=container),
            sandbox=pod.sandbox,
            folder=pod.folder,
            image=pod.images[name],
            sources=await asyncio.to_thread(mount_sources, pod.folder, container),
            target=self._target(container),
        )
        pod.notice([await self._create_container(body)])
        self._tell(name, "Created", "Container created")
        await pod.look(self._podman)

    def _target(self, container: Container) -> str:
        """The running container whose processes an ephemeral one wants to see.

        Raises:
            Rejected: it does not run now.
        """
        if not container.target:
            return ""
        runs = self._pod.seen.runs_of(container.target)
        if not runs or runs[0].state != "running":
            raise Rejected(f"target container {container.target!r} does not run")
        return runs[0].id

    async def _create_container(self, body: dict[str, Any]) -> str:
        """Make a container, or find the one that has its name; returns its id."""
        try:
            return await self._podman.create_container(body)
        except (Conflict, PodmanError) as error:
            if "already in use" not in str(error):
                raise
            return await self._taken_name(body["name"], error)

    async def _taken_name(self, name: str, error: Exception) -> str:
        """The container that an earlier, cut-short attempt has made under this name."""
        try:
            return (await self._podman.inspect(name)).id
        except NotFound:
            # Podman was killed between its two stores: the name is taken, but by no container it knows.
            await self._podman.remove_container(name)
            raise Retry(f"{name} was made by half: {error}") from error

    async def _start_run(self, run: Run) -> None:
        pod = self._pod
        try:
            await self._podman.start(run.id)
        except NotFound:
            pod.runs.pop(run.id, None)
            return
        except PodmanError as error:
            if HALF_STARTED in str(error):
                await self._reap(run.id)
            elif any(words in f"{error.cause} {error}" for words in COMMAND_ERRORS):
                now = self._host.clock()
                pod.troubles.pop(run.container, None)
                pod.keep(
                    structs.replace(run, state="exited", exit_code=128, finished_at=now, failure=str(error))
                )
                return
            await self._start_anew(run, error)
            return
        pod.troubles.pop(run.container, None)
        pod.notice([run.id])
        await pod.look(self._podman)

    async def _resize(self, step: plan.Resize) -> None:
        pod, run, key = self._pod, step.run, trouble_key(step.container.name)
        wanted = step.container.resources
        try:
            await self._podman.update(run.id, bodies.updated_limits(wanted))
        except (NotFound, PodmanError) as error:
            self._note_trouble(key, "ResizeFailed", error)
            pod.notice([run.id])  # it may have ended meanwhile
            return
        pod.troubles.pop(key, None)
        pod.mark(run.id, structs.replace(pod.marks.get(run.id, NO_MARKS), resources=wanted))

    def _restart(self, run: Run, why: Literal["Resize", "Image"]) -> None:
        marks = self._pod.marks.get(run.id, NO_MARKS)
        self._pod.mark(run.id, structs.replace(marks, doomed=why, doomed_at=self._host.clock()))
        message = f"Container {run.container} {RESTARTS[why]}"
        self._tell(run.container, "Killing", message)

    async def _reap(self, container: str) -> None:
        """End the process that Podman has made but does not know of.

        That takes a look at the host's processes; an agent in a container of its own
        has none, and leaves the process, which waits for ever and does nothing.
        """
        pid_file = (await self._podman.inspect(container)).pid_file
        if kill_member(pid_file, container):
            log.info("half-started process ended", pod=self._pod.identity.name, container=container)

    async def _start_anew(self, run: Run, error: PodmanError) -> None:
        """Not the command's fault: the same run is made anew later on."""
        await self._podman.remove_container(run.id)
        self._pod.runs.pop(run.id, None)
        self._note_trouble(run.container, "RunContainerError", error)

    async def _signal(self, runs: tuple[Run, ...], *, kill: bool) -> None:
        outcomes = await asyncio.gather(
            *(self._signal_one(run, SIGKILL if kill else run.stop_signal) for run in runs),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _signal_one(self, run: Run, signal: int) -> None:
        asked = self._pod.asked
        asked.setdefault(run.id, self._host.clock())
        await self._podman.kill(run.id, signal)
        if signal != SIGKILL:
            asked[run.id] = self._host.clock()
        self._pod.signalled[run.id] = signal

    async def _discard(self, runs: tuple[Run, ...]) -> None:
        for run in runs:
            await self._podman.remove_container(run.id)
            self._pod.forget(run)

    # --- trouble ---

    async def _troubled(self, key: str, reason: str, attempt: Awaitable[None]) -> None:
        try:
            await attempt
        except (NotFound, Rejected) as error:
            wrong = isinstance(error, ConfigError)
            self._note_trouble(key, "CreateContainerConfigError" if wrong else reason, error)
            # Whatever was taken to be there may not be: the next attempt looks for it anew.
            self._pod.images.pop(key, None)
            await self._pod.find_sandbox(self._podman)
        else:
            if not key:  # a container's goes once it has started: its start may be refused again
                self._pod.troubles.pop(key, None)

    def _note_trouble(self, key: str, reason: str, error: Exception) -> None:
        before = self._pod.troubles.get(key)
        delay = min(TROUBLE_CAP, 2 * before.delay) if before and before.delay else TROUBLE_BASE
        self._pod.troubles[key] = Trouble(reason, str(error), self._host.clock(), delay)
