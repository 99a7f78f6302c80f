"""The `podman` backend: pods as real containers of one host's Podman.

In: the calls of `backends/base.py`. Out: what Podman and the supervisors make of
them. Invariant: a `create` is recorded in the pod's folder before it returns,
so that a kill at any moment loses and doubles nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from overspill.backends.base import Capabilities, Inventory, LogOptions, PodUsage, ProbeCount, Process
from overspill.backends.podman.api import Podman
from overspill.backends.podman.atomic import write_files
from overspill.backends.podman.bodies import without_place
from overspill.backends.podman.capabilities import CAPABILITIES, check
from overspill.backends.podman.client import Client
from overspill.backends.podman.folder import node_root
from overspill.backends.podman.forward import connect
from overspill.backends.podman.inspect import place_labels
from overspill.backends.podman.logs import pod_logs
from overspill.backends.podman.node import Node
from overspill.backends.podman.options import read_options
from overspill.backends.podman.seen import Run
from overspill.backends.podman.streams import attach_container, exec_in_container
from overspill.backends.podman.supervisor import Supervisor
from overspill.backends.podman.turns import all_containers
from overspill.backends.podman.usage import pod_usage
from overspill.backends.podman.volumes import check_paths
from overspill.errors import Misconfigured, NotFound, Retry, Unsupported
from overspill.model.observation import Observation, Sighting
from overspill.model.work import Container, Files, Identity, Resources, Volume, WorkSpec

__all__ = ["PodmanBackend"]


class PodmanBackend:
    """The backend of one virtual node."""

    name = "podman"
    capabilities: Capabilities = CAPABILITIES

    def __init__(
        self, *, cluster: str, node: str, options: Mapping[str, Any], clock: Callable[[], float] = time.time
    ) -> None:
        self.options = read_options(options)
        self._podman = Podman(Client(self.options.socket))
        self._node = Node(
            self._podman,
            cluster=cluster,
            node=node,
            network=self.options.network,
            root=node_root(self.options.data_dir, cluster, node),
            clock=clock,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Find everything again.

        Raises:
            Retry: Podman does not answer, or the data directory cannot be used.
            Misconfigured: the network is missing.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._podman.client)
            if not await self._podman.network_exists(self.options.network):
                raise Misconfigured(
                    f"Podman has no network {self.options.network!r}: make it with `podman network create`"
                )
            with self._recording():
                await stack.enter_async_context(self._node.running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of every pod as it is."""
        await self._stack.__aexit__(kind, error, trace)

    async def node_labels(self) -> Mapping[str, str]:
        """Which Podman has the pods."""
        return place_labels(await self._podman.info())

    async def create(self, work: WorkSpec) -> None:
        """Record the pod; its supervisor does the rest."""
        check(work)
        with self._recording():
            self._node.add(work if self.options.place_by_annotation else without_place(work))

    async def delete(self, identity: Identity, *, grace_seconds: int) -> None:
        """Record the pod's end; its supervisor does the rest."""
        self._found(identity).delete(float(grace_seconds))

    async def list(self) -> Sequence[Observation]:
        """Every pod, after a fresh look at Podman."""
        await self._node.relist()
        return self._node.observations()

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of what changed from now on."""
        return self._node.feed.watch()

    async def refresh(self, identity: Identity, volumes: Mapping[str, Volume]) -> None:
        """Replace the files of volumes."""
        pod = self._found(identity).pod
        check_paths(volumes)
        group = pod.work.fs_group if pod.work else None
        for name, volume in volumes.items():
            if isinstance(volume, Files):
                with self._recording():
                    await asyncio.to_thread(write_files, pod.folder.volume(name), volume.files, group=group)

    async def add_ephemeral(self, identity: Identity, containers: Sequence[Container]) -> None:
        """Record ephemeral containers; the pod's supervisor does the rest."""
        found = self._found(identity)
        if found.pod.work is None:
            raise Unsupported(f"pod {identity.namespace}/{identity.name} was found without its record")
        check(structs.replace(found.pod.work, ephemeral_containers=tuple(containers)))
        with self._recording():
            found.add_ephemeral(containers)

    async def resize(self, identity: Identity, resources: Mapping[str, Resources]) -> None:
        """Record other requests and limits; the pod's supervisor does the rest."""
        found = self._found(identity)
        if found.pod.work is None:
            raise Unsupported(f"pod {identity.namespace}/{identity.name} was found without its record")
        with self._recording():
            found.resize(resources)

    async def change_images(self, identity: Identity, images: Mapping[str, str]) -> None:
        """Record other images; the pod's supervisor does the rest."""
        found = self._found(identity)
        if found.pod.work is None:
            raise Unsupported(f"pod {identity.namespace}/{identity.name} was found without its record")
        with self._recording():
            found.change_images(images)

    def logs(self, identity: Identity, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's output."""
        return pod_logs(self._found(identity), container, options)

    async def exec(
        self, identity: Identity, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> Process:
        """Start a process in a running container."""
        run = self._running(identity, container)
        return await exec_in_container(self._podman, run.id, command, stdin=stdin, tty=tty)

    async def attach(self, identity: Identity, container: str, *, stdin: bool, tty: bool) -> Process:
        """Attach to the main process of a running container."""
        supervisor, run = self._found(identity), self._running(identity, container)
        spec = next((c for c in all_containers(supervisor.pod.work) if c.name == container), None)
        if spec and spec.stdin and not spec.tty and not (stdin and spec.stdin_once):
            return await supervisor.join(run, stdin=stdin)
        once = spec is not None and spec.stdin_once and not spec.tty
        terminal = spec.tty if spec else tty  # Podman frames what comes by this, whatever the client asks for
        return await attach_container(self._podman, run.id, stdin=stdin, tty=terminal, ends_stdin=once)

    async def port_forward(self, identity: Identity, port: int) -> Process:
        """Connect to a port of the pod."""
        sandbox = self._found(identity).pod.sandbox
        if not sandbox or not sandbox.running:
            raise NotFound(f"pod {identity.namespace}/{identity.name} does not run")
        infra = await self._podman.inspect(sandbox.infra)
        return await connect(infra.network_settings.sandbox_key, sandbox.ips[0], port)

    async def usage(self) -> Sequence[PodUsage]:
        """What the running containers use."""
        pods = [(found.pod.identity, found.pod.seen.live) for found in self._node.supervisors()]
        ids = [run.id for _, runs in pods for run in runs]
        stats = {stat.container_id: stat for stat in await self._podman.stats(ids)} if ids else {}
        sampled_at = self._node.clock()
        return [pod_usage(identity, runs, stats, sampled_at=sampled_at) for identity, runs in pods if runs]

    def probe_counts(self) -> Iterator[ProbeCount]:
        """How the probes of all pods went."""
        for supervisor in self._node.supervisors():
            yield from supervisor.probe_counts()

    async def health(self) -> None:
        """Return when Podman answers."""
        await self._podman.ping()

    @staticmethod
    def inventory(*, cluster: str, options: Mapping[str, Any]) -> Inventory:
        """The pods of a whole cluster at this host's Podman."""
        from overspill.backends.podman.inventory import PodmanInventory  # noqa: PLC0415 - no agent needs it

        return PodmanInventory(cluster=cluster, options=options)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """A full disk may have room again later: that is `Retry`."""
        try:
            yield
        except OSError as error:
            raise Retry(f"backend podman: {self.options.data_dir} cannot be used: {error}") from error

    def _found(self, identity: Identity) -> Supervisor:
        found = self._node.find(identity)
        if found is None:
            raise NotFound(f"pod {identity.namespace}/{identity.name} ({identity.uid}) is not here")
        return found

    def _running(self, identity: Identity, container: str) -> Run:
        runs = self._found(identity).pod.seen.runs_of(container)
        if not runs or runs[0].state != "running":
            raise NotFound(
                f"container {container!r} of pod {identity.namespace}/{identity.name} does not run"
            )
        return runs[0]
