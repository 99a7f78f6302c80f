"""What the contract suite needs of a backend under test, and the stage it plays on.

A test says what containers do by `Play`; a `Harness` says it in the backend's own words: annotations
for one, a shell script for another. So each test body is written once.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from overspill.backends.base import Backend, LogOptions, Process
from overspill.errors import NotFound
from overspill.model.observation import (
    ContainerObservation,
    Gone,
    Observation,
    Running,
    Sighting,
    Terminated,
    Waiting,
)
from overspill.model.work import Container, Identity, WorkSpec

CLUSTER, NODE, OTHER_NODE = "contract-cluster", "virtual-node-0", "virtual-node-1"
PATIENCE = 30.0  # seconds until a test gives up; nothing waits for so long by design


@dataclass(frozen=True)
class Play:
    """What a container does: it prints, runs, ends.

    Attributes:
        prints: lines that it writes first.
        seconds: how long it then runs; None: until SIGTERM, on which it ends with code 0.
        code: with which it ends by itself.
        ignores_term: only SIGKILL ends it.
        echoes: it copies its stdin to its stdout.
        serves: port on which it writes back what it reads.
        absent_image: its image cannot be pulled.
        fields: further fields of `Container`.
    """

    name: str = "main"
    prints: tuple[str, ...] = ()
    seconds: float | None = None
    code: int = 0
    ignores_term: bool = False
    echoes: bool = False
    serves: int | None = None
    absent_image: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


class Harness(Protocol):
    """A backend under test.

    Attributes:
        differences: what a cloud behind the backend cannot do as every backend should, by name, each with
            its reason, which stands in the backend's documentation as well.
    """

    differences: Mapping[str, str]

    def connect(self, *, node: str = NODE) -> AbstractAsyncContextManager[Backend]:
        """A backend object on this harness's store; each call makes another one on the same store."""

    def container(self, play: Play) -> Container:
        """The container that plays it."""

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        """The pod annotations that the plays need."""

    def outage(self) -> AbstractAsyncContextManager[None]:
        """A time in which the store cannot be reached, while pods go on."""


class Stage:
    """A backend that is watched. `history` has every sighting, in order."""

    def __init__(self, harness: Harness, backend: Backend) -> None:
        self.harness = harness
        self.backend = backend
        self.history: list[Sighting] = []
        self._batches = backend.watch()

    # --- pods ---

    def pod(self, *plays: Play, init: Sequence[Play] = (), name: str = "pod", **fields: Any) -> WorkSpec:
        """A pod of a uid of its own; one container that runs until it is stopped, unless told otherwise."""
        plays = plays or (Play(),)
        identity = Identity(CLUSTER, fields.pop("node", NODE), "default", name, str(uuid.uuid4()))
        return WorkSpec(
            identity=identity,
            containers=tuple(map(self.harness.container, plays)),
            init_containers=tuple(map(self.harness.container, init)),
            annotations=self.harness.annotations([*init, *plays]),
            hostname=name,
            **fields,
        )

    async def start(self, *plays: Play, **fields: Any) -> WorkSpec:
        """Create a pod and wait until all its app containers run."""
        work = self.pod(*plays, **fields)
        await self.backend.create(work)
        await self.running(work)
        return work

    async def listed(self, work: WorkSpec) -> Observation | None:
        """The pod as a list has it."""
        return next((seen for seen in await self.backend.list() if seen.identity == work.identity), None)

    async def until_listed(self, work: WorkSpec, condition: Callable[[Observation], bool]) -> Observation:
        """Wait until a list, or what comes after it, meets the condition."""
        self.history += await self.backend.list()
        return await self.until(work, condition)

    # --- waiting ---

    async def until(self, work: WorkSpec, condition: Callable[[Observation], bool]) -> Observation:
        """The first observation of the pod, past ones included, that meets the condition."""
        found = await self._until(
            work.identity, lambda sighting: isinstance(sighting, Observation) and condition(sighting)
        )
        assert isinstance(found, Observation)
        return found

    async def running(self, work: WorkSpec) -> Observation:
        """Wait until all app containers run."""
        return await self.until(work, lambda seen: all(map(runs, seen.containers)))

    async def gone(self, work: WorkSpec) -> Gone:
        """Wait until nothing of the pod is left."""
        found = await self._until(work.identity, lambda sighting: isinstance(sighting, Gone))
        assert isinstance(found, Gone)
        return found

    async def _until(self, identity: Identity, condition: Callable[[Sighting], bool]) -> Sighting:
        looked_at = 0
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    for sighting in self.history[looked_at:]:
                        if sighting.identity == identity and condition(sighting):
                            return sighting
                    looked_at = len(self.history)
                    self.history += await anext(self._batches)
        except TimeoutError:
            seen = [sighting for sighting in self.history if sighting.identity == identity]
            pytest.fail(f"it never came to that; last seen: {seen[-1] if seen else 'nothing'}")

    # --- looking in ---

    def needs(self, verb: str) -> None:
        """Skip the test where the backend says that it has no such verb."""
        if verb not in self.backend.capabilities.verbs:
            pytest.skip(f"the backend has no {verb}, and says so")

    def honours(self, path: str) -> None:
        """Skip the test where the backend says that it does not know this field of a pod."""
        fields = self.backend.capabilities.pod_fields
        if path not in fields and not any(f.endswith(".*") and path.startswith(f[:-1]) for f in fields):
            pytest.skip(f"the backend does not know {path}, and says so")

    def same(self, what: str) -> None:
        """Skip the test where the harness declares that its backend differs here."""
        if reason := self.harness.differences.get(what):
            pytest.skip(f"{what}: {reason}")

    async def run(
        self, work: WorkSpec, *command: str, container: str = "main", stdin: bytes | None = None
    ) -> tuple[int, str, str]:
        """Run a command in a container: exit code, stdout, stderr."""
        process = await self.backend.exec(
            work.identity, container, command, stdin=stdin is not None, tty=False
        )
        try:
            if stdin is not None:
                await process.write(stdin)
                await process.close_stdin()
            out, err = await outputs(process)
            return await process.wait(), out.decode(), err.decode()
        finally:
            await process.close()

    async def log(self, work: WorkSpec, container: str = "main", **options: Any) -> str:
        """A container's output."""
        async with asyncio.timeout(PATIENCE):
            pieces = self.backend.logs(work.identity, container, LogOptions(**options))
            return b"".join([piece async for piece in pieces]).decode()

    async def printed(self, work: WorkSpec, text: str, container: str = "main") -> None:
        """Wait until a container has written this text, and nothing else."""
        got = ""
        async with (
            asyncio.timeout(PATIENCE),
            aclosing(self.backend.logs(work.identity, container, LogOptions(follow=True))) as pieces,  # type: ignore[type-var]  # the iterators are generators
        ):
            async for piece in pieces:
                got += piece.decode()
                if len(got) >= len(text):
                    break
        assert got == text

    async def clean_up(self) -> None:
        """End every pod of this node."""
        self._batches = self.backend.watch()  # an outage may have ended the other one
        for seen in await self.backend.list():
            try:
                await self.backend.delete(seen.identity, grace_seconds=0)
            except NotFound:
                continue
            await self._until(seen.identity, lambda sighting: isinstance(sighting, Gone))


async def outputs(process: Process) -> tuple[bytes, bytes]:
    """All that a process writes: stdout, stderr."""
    streams = {1: b"", 2: b""}
    async with asyncio.timeout(PATIENCE):
        async for stream, data in process.output():
            streams[stream] += data
    return streams[1], streams[2]


async def first_output(process: Process, size: int) -> bytes:
    """The first bytes that a process writes."""
    got = b""
    async with asyncio.timeout(PATIENCE), aclosing(process.output()) as pieces:  # type: ignore[type-var]  # the iterators are generators
        async for _, data in pieces:
            got += data
            if len(got) >= size:
                break
    return got


async def next_batch(batches: AsyncIterator[Sequence[Sighting]]) -> Sequence[Sighting]:
    """The next batch of a watch."""
    async with asyncio.timeout(PATIENCE):
        return await anext(batches)


def runs(container: ContainerObservation) -> bool:
    """It runs."""
    return isinstance(container.state, Running)


def ended(container: ContainerObservation) -> bool:
    """It ended for good."""
    return isinstance(container.state, Terminated) and not container.will_restart


def waits(container: ContainerObservation, reason: str) -> bool:
    """It waits for this reason."""
    return isinstance(container.state, Waiting) and container.state.reason == reason
