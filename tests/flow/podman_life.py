"""What the tests of containers' lives on Podman share: probes, conditions, a directory that tells."""

import asyncio
from pathlib import Path

from msgspec import structs
from podman_pods import Stage, log_of, pod

from overspill.model.observation import ContainerObservation, Happened, Observation, Running
from overspill.model.work import EmptyDir, ExecAction, Mount, Probe, WorkSpec


def cat(path: str, **fields) -> Probe:
    """A probe that wants a file to be there; impatient, unless told otherwise."""
    impatient = {"period_seconds": 1, "failure_threshold": 1, "timeout_seconds": 10}
    return Probe(ExecAction(("cat", path)), **(impatient | fields))


def main(sighting) -> ContainerObservation | None:
    return sighting.containers[0] if isinstance(sighting, Observation) and sighting.containers else None


def ready(sighting) -> bool:
    return bool((c := main(sighting)) and c.ready)


def restarted(sighting) -> bool:
    return bool((c := main(sighting)) and c.restarts and isinstance(c.state, Running))


BEGINNINGS = {"Pulling", "Pulled", "Created"}


def told(stage: Stage, work: WorkSpec) -> list[tuple[str, str]]:
    """What happened to a pod, but for how each container begins: reasons and messages."""
    return [pair for pair in _happened(stage, work) if pair[0] not in BEGINNINGS]


def beginnings(stage: Stage, work: WorkSpec) -> list[tuple[str, str]]:
    """What was told of images and of containers that are made: reasons and messages."""
    return [pair for pair in _happened(stage, work) if pair[0] in BEGINNINGS]


def _happened(stage: Stage, work: WorkSpec) -> list[tuple[str, str]]:
    history = stage.witness.history
    return [(s.reason, s.message) for s in history if isinstance(s, Happened) and s.identity == work.identity]


def happens(reason: str, text: str):
    """Somebody is told this."""

    def condition(sighting) -> bool:
        return isinstance(sighting, Happened) and sighting.reason == reason and text in sighting.message

    return condition


def volume(stage: Stage, work: WorkSpec) -> Path:
    """The directory that the containers of a `shared` pod see as /shared."""
    return next(Path(stage.service.data_dir).glob(f"*/*/{work.identity.uid}.0")) / "volumes" / "shared"


def shared(*containers, **fields) -> WorkSpec:
    """A pod whose containers share a directory /shared."""
    mounts = (Mount("shared", "/shared"),)
    inits = tuple(structs.replace(c, mounts=mounts) for c in fields.pop("init_containers", ()))
    return pod(
        *(structs.replace(c, mounts=mounts) for c in containers),
        init_containers=inits,
        volumes={"shared": EmptyDir()},
        **fields,
    )


def kept(stage: Stage, work: WorkSpec, name: str = "log") -> list[str]:
    """What the containers have written to a file of their directory, read on the host."""
    path = volume(stage, work) / name
    return path.read_text().split() if path.exists() else []


async def last_words_of(stage: Stage, work: WorkSpec, *, grace: int) -> list[str]:
    """End a pod; what was written to its directory until it was gone."""
    with (volume(stage, work) / "log").open() as log:  # outlives its name
        await stage.witness.end(work, grace=grace)
        return log.read().split()


async def eventually_logged(stage: Stage, work: WorkSpec, text: bytes) -> None:
    """Wait until a container has written a text."""
    async with asyncio.timeout(20):
        while text not in await log_of(stage.backend, work):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.1)
