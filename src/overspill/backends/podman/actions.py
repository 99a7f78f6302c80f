"""What probes and hooks do: ask a container something, once.

In: an action and where its container is. Out: an `Outcome` in the kubelet's
words. Invariant: a pod is asked at its own address, from within its network
where that can be entered, else from here; an answer is read up to 10 KiB.
Sources: k8s.io/kubernetes pkg/probe/*, pkg/kubelet/lifecycle/handlers.go.
"""

import asyncio
import os
import socket
from collections.abc import Sequence

from msgspec import Struct

from overspill.backends.podman.api import Podman
from overspill.backends.podman.forward import socket_in
from overspill.backends.podman.streams import exec_in_container
from overspill.errors import Retry
from overspill.model.work import (
    ExecAction,
    GrpcAction,
    HookAction,
    HttpGetAction,
    ProbeAction,
    SleepAction,
    TcpSocketAction,
)

__all__ = ["Outcome", "Place", "ask", "connected", "dial_error", "host_port", "run_hook"]

LONGEST = 10 << 10  # bytes of output that are kept
PATIENCE = 60.0  # seconds for which Podman may take to begin a process


class Place(Struct, frozen=True):
    """Where a run of a container is: in which Podman, under which id, at which address of which network."""

    podman: Podman
    run: str
    address: str
    namespace: str

    async def socket_to(self, host: str) -> socket.socket:
        """A socket for a connection to a host, which if empty is the pod itself."""
        family = socket.AF_INET6 if ":" in (host or self.address) else socket.AF_INET
        if not host and self.namespace:
            try:
                return await socket_in(self.namespace, family)
            except OSError:
                pass  # no way in: the namespace is another machine's or another container's to see
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made


class Outcome(Struct, frozen=True):
    """An answer. `warning`: it counts as healthy, and the user should hear of it."""

    healthy: bool
    output: str
    warning: bool = False


async def ask(action: ProbeAction, place: Place, seconds: float) -> Outcome:
    """Do what a probe does, once.

    Raises:
        NotFound, Retry, Rejected: there is no telling; this is not the container's fault.
    """
    match action:
        case ExecAction(command):
            return await _run(command, place, seconds)
        case HttpGetAction():
            from overspill.backends.podman.httpget import probe_http  # noqa: PLC0415 - of few pods' use

            return await probe_http(action, place, seconds)
        case TcpSocketAction(port, host):
            return await _connect(host, port, place, seconds)
        case GrpcAction(port, service):
            from overspill.backends.podman.grpchealth import check_health  # noqa: PLC0415 - of few pods' use

            return await check_health(port, service, place, seconds)


async def run_hook(action: HookAction, place: Place) -> str:
    """Do what a hook does; returns why it failed, or "". It may last as long as its container.

    Raises:
        NotFound, Retry, Rejected: it could not be begun.
    """
    match action:
        case SleepAction(seconds):
            await asyncio.sleep(seconds)
            return ""
        case ExecAction(command):
            outcome = await _run(command, place, None)
            return "" if outcome.healthy else outcome.output or "its command failed"
        case HttpGetAction():
            from overspill.backends.podman.httpget import call_http  # noqa: PLC0415 - of few pods' use

            return await call_http(action, place)
        case TcpSocketAction():
            raise NotImplementedError  # refused before the pod was taken on


async def _run(command: Sequence[str], place: Place, seconds: float | None) -> Outcome:
    """The time counts from where Podman has begun the process: how long that takes is not the container's doing."""
    try:
        async with asyncio.timeout(PATIENCE):
            process = await exec_in_container(place.podman, place.run, command, stdin=False, tty=False)
    except TimeoutError as error:
        raise Retry("Podman does not begin a process in the container") from error
    output = b""
    try:
        async with asyncio.timeout(seconds):
            async for _, data in process.output():
                output += data[: LONGEST - len(output)]
            code = await process.wait()
    except TimeoutError:
        return Outcome(healthy=False, output=f'command "{" ".join(command)}" timed out')
    finally:
        await process.close()
    return Outcome(healthy=code == 0, output=output.decode(errors="replace"))


async def _connect(host: str, port: int, place: Place, seconds: float) -> Outcome:
    try:
        async with asyncio.timeout(seconds):
            (await connected(place, host, port)).close()
    except OSError as error:
        return Outcome(healthy=False, output=dial_error(host_port(host or place.address, port), error))
    return Outcome(healthy=True, output="")


async def connected(place: Place, host: str, port: int) -> socket.socket:
    """A connection to a port of the pod, or of another host."""
    made = await place.socket_to(host)
    try:
        await asyncio.get_running_loop().sock_connect(made, (host or place.address, port))
    except BaseException:
        made.close()
        raise
    return made


def dial_error(target: str, error: OSError) -> str:
    """Why there is no connection, as Go says it; a `TimeoutError` is an `OSError`, too."""
    if isinstance(error, TimeoutError):
        return f"dial tcp {target}: i/o timeout"
    why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
    return f"dial tcp {target}: connect: {why}"


def host_port(host: str, port: int) -> str:
    """As in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
