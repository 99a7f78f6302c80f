"""The last step of the walkthrough: a thousand pods on virtual nodes whose backend is simulated.

In: a `Walk`. Out: four more agents beside the cluster, 1,000 pods up and down again, and the rates.
Invariant: the agents are processes of the cluster, so that `overspill down` ends them however this ends.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from overspill.errors import Misconfigured
from overspill.local.paths import repository
from overspill.local.processes import Processes, Program
from overspill.local.walk import Unmet, Walk

__all__ = ["thousand_simulated"]

NAMES = tuple(f"simulated-{number}" for number in range(4))
PODS = 1000
WITHIN = 600.0
LOOK_EVERY = 0.25
EXAMPLE = "examples/simulated-pods.yaml"


async def thousand_simulated(walk: Walk) -> None:
    """Start a thousand pods and delete them."""
    walk.say("Four more agents, as plain processes beside the cluster, with the backend `simulated`.")
    _start_agents(walk)
    await walk.until("four simulated nodes are Ready", lambda: _nodes(walk, ready=True))
    await walk.show("get", "nodes", "-l", "pool=simulated")
    await walk.show("create", "namespace", "scale")
    began = time.monotonic()
    await walk.show("-n", "scale", "apply", "-f", _example())
    await _follow(walk, "Running", PODS, lambda: _running(walk))
    _tell_rate(walk, "Running", time.monotonic() - began)
    await _check_spread(walk)
    began = time.monotonic()
    await walk.show("-n", "scale", "scale", "deployment", "sleepers", "--replicas=0")
    await _follow(walk, "gone", PODS, lambda: _gone(walk))
    _tell_rate(walk, "gone", time.monotonic() - began)
    await _clear(walk)


def _example() -> str:
    """The path as a user would type it."""
    return os.path.relpath(repository() / EXAMPLE)


def _start_agents(walk: Walk) -> None:
    for name in NAMES:
        Processes(walk.paths).ensure(
            Program(
                name=f"agent-{name}",
                argv=(
                    *(_overspill(), "agent", "--node-name", name, "--backend", "simulated"),
                    *("--kubeconfig", str(walk.paths.kubeconfig), "--label", "pool=simulated"),
                    *("--node-ip", walk.plan.host_address, "--health-address", "127.0.0.1:0"),
                    *("--kubelet-address", f"{walk.plan.host_address}:0"),
                ),
            )
        )


def _overspill() -> str:
    found = shutil.which("overspill", path=str(Path(sys.executable).parent)) or shutil.which("overspill")
    if found is None:
        raise Misconfigured("the `overspill` command is not installed beside this Python; run `make setup`")
    return found


async def _nodes(walk: Walk, *, ready: bool) -> str:
    found = json.loads(await walk.kubectl("get", "nodes", "-l", "pool=simulated", "-o", "json"))["items"]
    good = sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in found
        for condition in node.get("status", {}).get("conditions", ())
    )
    return "" if good == len(NAMES) * ready else f"{good} of {len(NAMES)}"


async def _running(walk: Walk) -> int:
    answer = await walk.kubectl(
        "-n", "scale", "get", "deployment", "sleepers", "-o", "jsonpath={.status.readyReplicas}"
    )
    return int(answer or 0)


async def _gone(walk: Walk) -> int:
    answer = await walk.kubectl("get", "--raw", "/api/v1/namespaces/scale/pods?limit=1")
    page = json.loads(answer)
    left: int = len(page["items"]) + page["metadata"].get("remainingItemCount", 0)
    return PODS - left


async def _follow(walk: Walk, word: str, total: int, count: Callable[[], Awaitable[int]]) -> None:
    """Show a bar on a terminal, until the count is full."""
    deadline = time.monotonic() + WITHIN
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=walk.console, transient=True, disable=not walk.console.is_terminal)
    with bar as progress:
        task = progress.add_task(f"pods {word}", total=total)
        while (done := await count()) < total:
            progress.update(task, completed=done)
            if time.monotonic() > deadline:
                raise Unmet(f"only {done} of {total} pods {word} after {WITHIN:.0f} s")
            await asyncio.sleep(LOOK_EVERY)


def _tell_rate(walk: Walk, word: str, seconds: float) -> None:
    walk.tick(f"{PODS} pods {word} in {seconds:.1f} s: {PODS / seconds:.0f} pods/s")


async def _check_spread(walk: Walk) -> None:
    names = await walk.kubectl(
        "-n", "scale", "get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{'\\n'}{end}"
    )
    counts = Counter(names.split())
    if set(counts) != set(NAMES):
        raise Unmet(f"pods are on {sorted(counts)} instead of {list(NAMES)}")
    walk.tick(", ".join(f"{counts[name]} on {name}" for name in NAMES))


async def _clear(walk: Walk) -> None:
    """End the agents and forget their nodes."""
    for name in NAMES:
        Processes(walk.paths).stop(f"agent-{name}", grace=10)
    await walk.kubectl("delete", "namespace", "scale")
    await walk.kubectl("delete", "node", *NAMES)
