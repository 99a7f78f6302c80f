"""Podman as the cloud: one service of its own per cluster, inside the machine.

In: a plan. Out: a REST socket, one network, one folder for pods' files, as `Cloud`.
It has its own image store, runtime folder and configuration: the user's Podman is neither seen nor changed,
and all of it goes with the state folder. Images come from archives in the cache, which takes under a second,
so that nothing need be shared between clusters.
"""

from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

from overspill.errors import Misconfigured, Retry
from overspill.local.commands import run, until
from overspill.local.machine import enter
from overspill.local.paths import Paths, write_file
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.render import render

__all__ = ["Cloud", "cloud_facts", "has_image", "load_images", "remove_containers", "start_cloud"]

# The default network of this Podman, so that nobody need name it.
NETWORK = "podman"
API = "/v4.0.0/libpod"
READY_TIMEOUT = 60.0


class Cloud(Struct, frozen=True):
    """What the podman backend has to know."""

    socket: str
    network: str
    data_dir: str


def cloud_facts(paths: Paths) -> Cloud:
    """Where the cloud of a cluster is."""
    return Cloud(str(paths.podman_socket), NETWORK, str(paths.pods))


async def start_cloud(paths: Paths, plan: Plan) -> None:
    """Have Podman's service answering, with the network of virtual nodes' pods.

    Raises:
        Retry: it did not come up.
        Misconfigured: Podman is missing.
    """
    write_file(
        _conf(paths), render("containers.conf", networks=paths.cloud / "networks", subnet=plan.podman_range)
    )
    argv = _podman(paths, "system", "service", "--time=0", f"unix://{paths.podman_socket}")
    processes = Processes(paths)
    program = Program(name="podman", argv=argv, env=_env(paths))
    if not processes.runs(program):
        processes.stop("podman")
        paths.podman_socket.unlink(missing_ok=True)  # before it starts: it binds within 40 ms
        processes.ensure(program)

    async def answers() -> bool:
        processes.require("podman")
        return await _call(paths, "GET", "/_ping") is not None

    await until(answers, what="Podman's service to answer", timeout=READY_TIMEOUT)


def _conf(paths: Paths) -> Path:
    return paths.config / "containers.conf"


def _env(paths: Paths) -> dict[str, str]:
    return {"CONTAINERS_CONF": str(_conf(paths))}


def _podman(paths: Paths, *arguments: str) -> tuple[str, ...]:
    places = ("--root", str(paths.cloud / "storage"), "--runroot", "/run/containers/storage")
    return enter(paths, ("podman", *places, "--storage-driver", "overlay", *arguments))


async def has_image(paths: Paths, name: str) -> bool:
    """Whether the cloud has an image."""
    return await _call(paths, "GET", f"{API}/images/{name}/exists") is not None


async def load_images(paths: Paths, archive: Path) -> None:
    """Load an archive of images into the cloud's store."""
    with archive.open("rb") as file:
        if await _call(paths, "POST", f"{API}/images/load", data=file) is None:
            raise Retry(f"Podman did not load {archive}; see the log of podman in `overspill status -o json`")


async def _call(paths: Paths, method: str, path: str, **body: Any) -> bytes | None:
    """What Podman answers; None when it does not answer, or not with success."""
    connector = aiohttp.UnixConnector(str(paths.podman_socket))
    timeout = aiohttp.ClientTimeout(total=300)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://podman{path}", **body) as response,
        ):
            answer = await response.read()
            return answer if response.ok else None
    except (aiohttp.ClientError, OSError):
        return None


async def remove_containers(paths: Paths) -> None:
    """Remove every pod and container of the cloud at once, also without its service."""
    if not _conf(paths).exists():
        return
    for arguments in (("pod", "rm"), ("rm",)):
        try:
            argv = _podman(paths, *arguments, "--all", "--force", "--time", "0")
            await run(argv, env=_env(paths), timeout=120)
        except (Retry, Misconfigured):
            # What Podman cannot remove any more ends with the processes and mounts of the machine.
            continue
