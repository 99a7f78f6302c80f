"""Pods for the tests of the podman backend, and waiting for what becomes of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from overspill.backends.base import LogOptions, Process
from overspill.backends.podman.backend import PodmanBackend
from overspill.model.observation import Gone, Observation, Running, Sighting, Terminated, Waiting
from overspill.model.work import Container, Identity, WorkSpec
from podman_service import IMAGE, NETWORK, PodmanService

CLUSTER, NODE = "test-cluster", "virtual-node-0"


def backend_of(service: PodmanService, *, node: str = NODE) -> PodmanBackend:
    """A backend as the agent would make it."""
    options = {"socket": service.socket, "network": NETWORK, "data_dir": service.data_dir}
    return PodmanBackend(cluster=CLUSTER, node=node, options=options)


def shell(script: str, *, name: str = "main", **fields) -> Container:
    """A container that runs a shell script."""
    return Container(name, IMAGE, command=("sh", "-c", script), **fields)


def pod(*containers: Container, name: str = "pod", **fields) -> WorkSpec:
    """A pod of a uid of its own."""
    identity = Identity(CLUSTER, NODE, "default", name, str(uuid.uuid4()))
    return WorkSpec(identity=identity, containers=containers, **({"hostname": name} | fields))


SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"  # a shell that ends at once when asked to


class Witness:
    """Watches a backend, remembers everything, and waits for what a test expects."""

    def __init__(self, backend: PodmanBackend) -> None:
        self.backend = backend
        self.history: list[Sighting] = []
        self._batches = backend.watch()
        self._more = asyncio.Condition()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with aclosing(self._batches) as batches:
            async for batch in batches:
                async with self._more:
                    self.history += batch
                    self._more.notify_all()

    async def until(
        self, work: WorkSpec, condition: Callable[[Sighting], bool], *, seconds: float = 30
    ) -> Sighting:
        """The first sighting of the pod, past ones included, that meets the condition."""
        return await self.until_identity(work.identity, condition, seconds=seconds)

    async def until_identity(
        self, identity: Identity, condition: Callable[[Sighting], bool], *, seconds: float = 30
    ) -> Sighting:
        """The same, by identity."""

        def met() -> Sighting | None:
            return next((s for s in self.history if s.identity == identity and condition(s)), None)

        try:
            async with asyncio.timeout(seconds), self._more:
                await self._more.wait_for(lambda: met() is not None)
        except TimeoutError:
            seen = [s for s in self.history if s.identity == identity]
            raise AssertionError(f"not met; last seen: {seen[-1] if seen else None}") from None
        found = met()
        assert found is not None
        return found

    async def running(self, work: WorkSpec) -> Observation:
        """Wait until all app containers run."""
        found = await self.until(work, is_running)
        assert isinstance(found, Observation)
        return found

    async def gone(self, work: WorkSpec) -> Gone:
        """Wait until nothing is left."""
        return await self.until_gone(work.identity)

    async def until_gone(self, identity: Identity) -> Gone:
        """Wait until nothing is left of the pod of this identity."""
        found = await self.until_identity(identity, lambda s: isinstance(s, Gone))
        assert isinstance(found, Gone)
        return found

    async def end(self, work: WorkSpec, *, grace: int = 0) -> None:
        """Delete the pod and wait for its end."""
        await self.backend.delete(work.identity, grace_seconds=grace)
        await self.gone(work)


@dataclass
class Stage:
    """A backend, and somebody who watches it."""

    backend: PodmanBackend
    witness: Witness
    service: PodmanService


@asynccontextmanager
async def staged(service: PodmanService) -> AsyncIterator[Stage]:
    """A backend on a service; afterwards every pod is gone, and nothing of any is left."""
    try:
        async with backend_of(service) as backend, asyncio.TaskGroup() as group:
            witness = Witness(backend)
            task = group.create_task(witness.run())
            yield Stage(backend, witness, service)
            left = await backend.list()
            for observation in left:
                await backend.delete(observation.identity, grace_seconds=0)
            for observation in left:
                await witness.until_gone(observation.identity)
            task.cancel()
        assert service.leftovers() == []
    finally:
        service.clear()


async def eventually(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for something that nothing tells of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.05)


def is_running(sighting: Sighting) -> bool:
    """All app containers run."""
    return isinstance(sighting, Observation) and all(
        isinstance(c.state, Running) for c in sighting.containers
    )


def waits(reason: str, *, container: int = 0) -> Callable[[Sighting], bool]:
    """An app container waits for this reason."""

    def condition(sighting: Sighting) -> bool:
        if not isinstance(sighting, Observation):
            return False
        state = sighting.containers[container].state
        return isinstance(state, Waiting) and state.reason == reason

    return condition


def ended(sighting: Sighting) -> bool:
    """The first app container has ended, not to run again."""
    return (
        isinstance(sighting, Observation)
        and isinstance(sighting.containers[0].state, Terminated)
        and not sighting.containers[0].will_restart
    )


async def output_of(process: Process) -> tuple[bytes, bytes]:
    """All that a process writes: stdout, stderr."""
    streams = {1: b"", 2: b""}
    async with asyncio.timeout(20):
        async for stream, data in process.output():
            streams[stream] += data
    return streams[1], streams[2]


async def run_in(
    backend: PodmanBackend, work: WorkSpec, command: Sequence[str], *, container: str = "main"
) -> str:
    """What a command in a container prints."""
    process = await backend.exec(work.identity, container, command, stdin=False, tty=False)
    out, _ = await output_of(process)
    await process.close()
    return out.decode()


async def log_of(
    backend: PodmanBackend, work: WorkSpec, options: LogOptions | None = None, *, container: str = "main"
) -> bytes:
    """A container's output."""
    pieces = backend.logs(work.identity, container, options or LogOptions())
    return b"".join([piece async for piece in pieces])


async def first_output(backend: PodmanBackend, work: WorkSpec, *, container: str = "main") -> bytes:
    """What a container writes first, once it does."""
    async with (
        asyncio.timeout(20),
        aclosing(backend.logs(work.identity, container, LogOptions(follow=True))) as pieces,
    ):
        return await anext(pieces)
