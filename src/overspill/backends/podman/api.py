"""The calls of Podman's libpod API that the backend makes, each with the shape of its answer.

In: names, ids and request bodies. Out: the few fields that are looked at.
Invariant: a call that asks for a state that holds already (start of a running
container, removal of an absent one) succeeds.
Source: https://docs.podman.io/en/v4.3/_static/api.html
"""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct, field

from overspill.backends.podman.client import PULL_TIMEOUT, Client, PodmanError, decode
from overspill.errors import NotFound, Retry
from overspill.model.work import RegistryCredential

__all__ = [
    "ContainerInspect",
    "Event",
    "Image",
    "ListedContainer",
    "ListedPod",
    "Podman",
    "Stats",
]

# How often a container is looked at whose processes come and go, which spoils one look in a hundred or two.
LOOKS = 5


class ListedPod(Struct, frozen=True, rename="pascal"):
    """A pod in a list. `infra_id` is empty when its making was cut short."""

    id: str
    name: str
    labels: dict[str, str] | None = None
    infra_id: str = ""
    status: str = ""
    created: str = ""


class ListedVolume(Struct, frozen=True, rename="pascal"):
    """A named volume in a list."""

    name: str


class ListedContainer(Struct, frozen=True, rename="pascal"):
    """A container in a list."""

    id: str
    state: str
    names: tuple[str, ...] = ()
    labels: dict[str, str] | None = None
    is_infra: bool = False
    pod: str = ""


class InspectState(Struct, frozen=True, rename="pascal"):
    """What a container does."""

    status: str
    exit_code: int = 0
    oom_killed: bool = field(name="OOMKilled", default=False)
    started_at: str = ""
    finished_at: str = ""
    pid: int = 0


class InspectConfig(Struct, frozen=True, rename="pascal"):
    """How a container was asked for."""

    labels: dict[str, str] | None = None
    stop_signal: int = 15
    tty: bool = False


class InspectNetwork(Struct, frozen=True):
    """A container's place in one network."""

    address: str = field(name="IPAddress", default="")
    address6: str = field(name="GlobalIPv6Address", default="")


class InspectNetworks(Struct, frozen=True, rename="pascal"):
    """A container's networks."""

    networks: dict[str, InspectNetwork] | None = None
    sandbox_key: str = ""


class ContainerInspect(Struct, frozen=True, rename="pascal"):
    """One container."""

    id: str
    name: str
    state: InspectState
    created: str = ""
    config: InspectConfig = InspectConfig()
    image: str = ""
    image_name: str = ""
    network_settings: InspectNetworks = InspectNetworks()
    pid_file: str = ""


class ImageConfig(Struct, frozen=True, rename="pascal"):
    """What an image says about running it."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


class Image(Struct, frozen=True, rename="pascal"):
    """One image."""

    id: str
    size: int = 0  # bytes
    repo_digests: tuple[str, ...] | None = None
    user: str = ""
    config: ImageConfig | None = None


class Actor(Struct, frozen=True):
    """Whom an event is about; the attributes hold its labels."""

    id: str = field(name="ID", default="")
    attributes: dict[str, str] | None = field(name="Attributes", default=None)


class Event(Struct, frozen=True, rename="pascal"):
    """One event."""

    type: str
    action: str
    actor: Actor = Actor()


class Stats(Struct, frozen=True):
    """One container's consumption: CPU nanoseconds since its start, bytes of memory."""

    container_id: str = field(name="ContainerID")
    cpu_nanoseconds: int = field(name="CPUNano", default=0)
    memory_bytes: int = field(name="MemUsage", default=0)


class StatsReport(Struct, frozen=True, rename="pascal"):
    """The answer to a question for statistics."""

    stats: tuple[Stats, ...] | None = None


class Created(Struct, frozen=True, rename="pascal"):
    """What was made."""

    id: str


class Pulled(Struct, frozen=True):
    """The answer of a pull: it fails with status 200 and an error in the body."""

    error: str = ""


class Top(Struct, frozen=True, rename="pascal"):
    """The processes of a container, as rows below titles."""

    processes: tuple[tuple[str, ...], ...] | None = None


class ExecInspect(Struct, frozen=True, rename="pascal"):
    """A process started in a container."""

    exit_code: int = 0
    running: bool = False
    pid: int = 0


class InfoHost(Struct, frozen=True):
    """The host's part of `info`."""

    hostname: str = ""
    cgroup_version: str = field(name="cgroupVersion", default="v2")


class InfoStore(Struct, frozen=True, rename="camel"):
    """What `info` says of where containers are kept."""

    graph_root: str = ""


class Info(Struct, frozen=True):
    """Of `info`, what is looked at."""

    host: InfoHost = InfoHost()
    store: InfoStore = InfoStore()


class Podman:
    """Podman's verbs. Every method raises what `Client.request` raises."""

    def __init__(self, client: Client) -> None:
        self.client = client

    # --- listing ---

    async def pods(self, query: Mapping[str, str]) -> list[ListedPod]:
        """All pods that match, in whatever state."""
        return await self.client.get("/pods/json", list[ListedPod], query=query)

    async def containers(self, query: Mapping[str, str]) -> list[ListedContainer]:
        """All containers that match, in whatever state."""
        return await self.client.get(
            "/containers/json", list[ListedContainer], query={"all": "true", "pod": "true", **query}
        )

    async def inspect(self, container: str) -> ContainerInspect:
        """One container, by id or name."""
        return await self.client.get(f"/containers/{container}/json", ContainerInspect)

    async def events(self, query: Mapping[str, str]) -> AsyncGenerator[Event | None, None]:
        """First None, when from here on nothing is missed, then events; a break raises `Retry`."""
        async for line in self.client.lines("/events", query={"stream": "true", **query}):
            yield decode(line, Event) if line else None

    async def info(self) -> Info:
        """About the host."""
        return await self.client.get("/info", Info)

    async def ping(self) -> None:
        """Return when the service answers."""
        await self.client.request("GET", "/_ping")

    async def network_exists(self, name: str) -> bool:
        """Whether there is a network of this name."""
        try:
            await self.client.request("GET", f"/networks/{name}/exists")
        except NotFound:
            return False
        return True

    # --- pods ---

    async def create_pod(self, body: Mapping[str, Any]) -> str:
        """Make a pod; returns its id."""
        return decode(await self.client.request("POST", "/pods/create", body=body), Created).id

    async def pod(self, name: str) -> ListedPod:
        """One pod, by name or id."""

        class Inspected(Struct, rename="pascal"):
            id: str
            name: str
            labels: dict[str, str] | None = None
            infra_container_id: str = field(name="InfraContainerID", default="")

        found = await self.client.get(f"/pods/{name}/json", Inspected)
        return ListedPod(found.id, found.name, found.labels, found.infra_container_id)

    async def pod_exists(self, name: str) -> bool:
        """Whether there is a pod of this name."""
        try:
            await self.client.request("GET", f"/pods/{name}/exists")
        except NotFound:
            return False
        return True

    async def remove_pod(self, pod: str) -> None:
        """Kill and remove a pod with all that is in it."""
        with suppress(NotFound):
            await self.client.request("DELETE", f"/pods/{pod}", query={"force": "true", "timeout": "0"})

    # --- containers ---

    async def create_container(self, body: Mapping[str, Any]) -> str:
        """Make a container; returns its id."""
        return decode(await self.client.request("POST", "/containers/create", body=body), Created).id

    async def start(self, container: str) -> None:
        """Start a container; one that runs already goes on."""
        await self.client.request("POST", f"/containers/{container}/start")

    async def stop(self, container: str) -> None:
        """End a container at once and wait for it; one that does not run is left as it is."""
        with suppress(NotFound):
            await self.client.request("POST", f"/containers/{container}/stop", query={"timeout": "0"})

    async def wait(self, container: str, *, seconds: float) -> int | None:
        """The exit code of a container that ends within the time, else None."""
        try:
            answer = await self.client.request(
                "POST",
                f"/containers/{container}/wait",
                query={"condition": "stopped", "interval": "50ms"},
                timeout=aiohttp.ClientTimeout(total=seconds),
            )
        except Retry:
            return None
        return decode(answer, int)

    async def kill(self, container: str, signal: int) -> None:
        """Send a signal; a container that does not run is left as it is."""
        with suppress(NotFound):
            try:
                await self.client.request(
                    "POST", f"/containers/{container}/kill", query={"signal": str(signal)}
                )
            except PodmanError as error:
                if "can only kill running" not in str(error) and "no such process" not in str(error):
                    raise

    async def update(self, container: str, limits: Mapping[str, Any]) -> None:
        """Give a running container other cgroup settings."""
        await self.client.request("POST", f"/containers/{container}/update", body=limits)

    async def remove_container(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes."""
        with suppress(NotFound):
            await self.client.request(
                "DELETE",
                f"/containers/{container}",
                query={"force": "true", "v": "true", "timeout": "0"},
            )

    async def stats(self, containers: Sequence[str]) -> tuple[Stats, ...]:
        """What these containers use now, as far as they run; perhaps others too."""
        query = [("stream", "false"), *(("containers", container) for container in containers)]
        report = await self.client.get("/containers/stats", StatsReport, query=query)
        if report.stats is None and containers:
            # One that is just gone is an error for all that were named; unnamed ones are passed over.
            return await self.stats(())
        return report.stats or ()

    # --- processes ---

    async def create_exec(self, container: str, body: Mapping[str, Any]) -> str:
        """Prepare a process in a running container; returns its session's id."""
        return decode(
            await self.client.request("POST", f"/containers/{container}/exec", body=body), Created
        ).id

    async def run_exec(self, session: str) -> None:
        """Start a prepared process and let it go."""
        await self.client.request("POST", f"/exec/{session}/start", body={"Detach": True})

    async def inspect_exec(self, session: str) -> ExecInspect:
        """How a process stands."""
        return await self.client.get(f"/exec/{session}/json", ExecInspect)

    async def host_pids(self, container: str) -> dict[int, int]:
        """The container's processes: pid on the host to pid in the container.

        One that has begun since Podman looked at the host has "?" there, and is left out. Where one ended while Podman
        looked at it, the answer is empty.
        """
        query = {"stream": "false", "ps_args": "hpid,pid"}
        for _ in range(LOOKS):
            if answer := await self.client.request("GET", f"/containers/{container}/top", query=query):
                break
        rows = decode(answer, Top).processes or ()
        return {int(outer): int(inner) for outer, inner in rows if outer != "?"}

    async def resize(self, target: str, *, width: int, height: int) -> None:
        """Set a terminal's size; `target` is `containers/ID` or `exec/ID`."""
        await self.client.request("POST", f"/{target}/resize", query={"h": str(height), "w": str(width)})

    # --- volumes and images ---

    async def create_volume(self, body: Mapping[str, Any]) -> None:
        """Make a named volume."""
        await self.client.request("POST", "/volumes/create", body=body)

    async def volumes(self, query: Mapping[str, str]) -> list[ListedVolume]:
        """All named volumes that match."""
        return await self.client.get("/volumes/json", list[ListedVolume], query=query)

    async def remove_volume(self, name: str) -> None:
        """Remove a named volume."""
        with suppress(NotFound):
            await self.client.request("DELETE", f"/volumes/{name}", query={"force": "true"})

    async def image(self, reference: str) -> Image:
        """An image of the local store."""
        return await self.client.get(f"/images/{reference}/json", Image)

    async def pull(self, reference: str, credential: RegistryCredential | None) -> None:
        """Pull an image.

        Raises:
            PodmanError: it could not be pulled; says why.
        """
        headers = {}
        if credential:
            login = {"username": credential.username, "password": credential.password}
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(msgspec.json.encode(login)).decode()
        answer = await self.client.request(
            "POST",
            "/images/pull",
            query={"reference": reference, "policy": "always", "quiet": "true"},
            headers=headers,
            timeout=PULL_TIMEOUT,
        )
        pulled = decode(answer, Pulled)
        if pulled.error:
            raise PodmanError(pulled.error)
