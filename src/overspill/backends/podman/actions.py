"""What probes and hooks do: ask a container something, once.

In: an action and where its container is. Out: an `Outcome` in the kubelet's
words. Invariant: an answer is read up to 10 KiB.
Sources: k8s.io/kubernetes pkg/probe/*, pkg/kubelet/lifecycle/handlers.go.
"""

import asyncio
from collections.abc import Sequence

from overspill.backends.podman.grpchealth import check_health
from overspill.backends.podman.httpget import call_http, probe_http
from overspill.backends.podman.place import LONGEST, Outcome, Place, connected, dial_error, host_port
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

__all__ = ["ask", "run_hook"]

PATIENCE = 60.0  # seconds for which Podman may take to begin a process


async def ask(action: ProbeAction, place: Place, seconds: float) -> Outcome:
    """Do what a probe does, once.

    Raises:
        NotFound, Retry, Rejected: there is no telling; this is not the container's fault.
    """
    match action:
        case ExecAction(command):
            return await _run(command, place, seconds)
        case HttpGetAction():
            return await probe_http(action, place, seconds)
        case TcpSocketAction(port, host):
            return await _connect(host, port, place, seconds)
        case GrpcAction(port, service):
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
