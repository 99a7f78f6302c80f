"""The heart of the walkthrough: a service under load outgrows its node, and shrinks again.

In: a `Walk` over a cluster with one worker, virtual nodes and metrics-server. Out: an HPA that goes up and
down on the CPU that pods really burn, told as a table that grows by a row with every change. Invariant: the
worker is full, whatever its size, so that every pod beyond the first has to go to a virtual node.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from overspill.local import expect
from overspill.local.images import BUSYBOX, PAUSE
from overspill.local.paths import repository
from overspill.local.walk import Unmet, Walk
from overspill.model.quantity import milli

__all__ = ["Moment", "grow_and_shrink", "moment", "room_beside"]

NAMESPACE = ("-n", "load")
EXAMPLE = "examples/autoscaled.yaml"
MOST, ENOUGH = 6, 4
CLIENTS = 2
# Out and back take some 40 s each on an idle machine.
WITHIN = 180.0
LOOK_EVERY = 0.5
# Of 300 s, for which an autoscaler otherwise waits to see whether load comes back.
BEHAVIOR = '{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}}'
# Many that pause long: about as many requests per second on a busy machine as on an idle one.
LOOP = "while :; do wget -qO- http://burn/cgi-bin/burn; sleep 1; done"
CLIENT = f"for each in 1 2 3 4 5; do ({LOOP}) & done; trap exit TERM; wait"
HEADINGS = ("SECONDS", "CPU/TARGET", "WANTED", "RUNNING", "ON WORKER", "ON VIRTUAL NODES")


class Moment(Struct, frozen=True):
    """How things stand: what the autoscaler sees and wants, and where pods run."""

    usage: str
    wanted: int
    present: int
    worker: int
    virtual: int

    @property
    def settled(self) -> bool:
        """Whether what is wanted is what runs, and nothing else is left."""
        return self.wanted == self.present == self.worker + self.virtual

    def cells(self) -> tuple[str, ...]:
        """As a row of the table, without the time."""
        running = self.worker + self.virtual
        return (self.usage, str(self.wanted), str(running), str(self.worker), str(self.virtual))


async def grow_and_shrink(walk: Walk, *, worker: str) -> None:
    """Out under load, back without it."""
    await walk.show("create", "namespace", NAMESPACE[1])
    await walk.show(*NAMESPACE, "apply", "-f", _example())
    await walk.show(*NAMESPACE, "rollout", "status", "deployment/burn")
    await _fill(walk, worker)
    await walk.show(*NAMESPACE, "autoscale", "deployment", "burn", "--cpu=50%", "--min=1", f"--max={MOST}")
    await walk.show(*NAMESPACE, "patch", "hpa", "burn", "-p", BEHAVIOR)
    await _load(walk, CLIENTS)
    await _follow(walk, worker, "out", lambda now: now.settled and now.present >= ENOUGH)
    await walk.until("every pod has its figures", lambda: _figures(walk))
    await walk.show(*NAMESPACE, "top", "pod", "-l", "app=burn")
    await walk.show("top", "node")
    await walk.show(*NAMESPACE, "scale", "deployment", "clients", "--replicas=0")
    await _follow(walk, worker, "back", lambda now: now.settled and now.present == 1)
    await walk.show(*NAMESPACE, "get", "hpa")
    await walk.show("delete", "namespace", NAMESPACE[1])


def _example() -> str:
    """The path as a user would type it."""
    return os.path.relpath(repository() / EXAMPLE)


async def _fill(walk: Walk, worker: str) -> None:
    """Give the worker other work, until there is no room for a second pod."""
    await walk.show(*NAMESPACE, "create", "deployment", "other-work", f"--image={PAUSE}")
    node = json.loads(await walk.kubectl("get", "node", worker, "-o", "json"))
    pods = await walk.objects("pods", "-A", "--field-selector", f"spec.nodeName={worker}")
    (burn,) = await walk.objects("pods", *NAMESPACE, "-l", "app=burn")
    if burn["spec"].get("nodeName") != worker:
        raise Unmet(f"the first pod is on {burn['spec'].get('nodeName')} instead of {worker}")
    free = room_beside(node, pods)
    walk.say(f"Other work takes the rest of {worker}: {free} millicores.")
    await walk.show(*NAMESPACE, "set", "resources", "deployment/other-work", f"--requests=cpu={free}m")
    await walk.show(*NAMESPACE, "rollout", "status", "deployment/other-work")


async def _load(walk: Walk, clients: int) -> None:
    await walk.show(
        *(*NAMESPACE, "create", "deployment", "clients", f"--image={BUSYBOX}", f"--replicas={clients}"),
        *("--", "sh", "-c", CLIENT),
    )


async def _follow(walk: Walk, worker: str, way: str, done: Callable[[Moment], bool]) -> None:
    """Tell every change until it is done.

    Raises:
        Unmet: it was not in time.
    """
    began = time.monotonic()
    walk.row(HEADINGS, HEADINGS)
    told: tuple[str, ...] = ()
    while True:
        (hpa,) = await walk.objects("hpa", *NAMESPACE)
        now = moment(hpa, await walk.objects("pods", *NAMESPACE, "-l", "app=burn"), worker=worker)
        seconds = time.monotonic() - began
        if now.cells() != told:
            told = now.cells()
            walk.row((f"{seconds:.0f}", *told), HEADINGS)
        if done(now):
            walk.tick(f"{way} to {now.present} {'pod' if now.present == 1 else 'pods'} in {seconds:.0f} s")
            return
        if seconds > WITHIN:
            raise Unmet(
                f"not {way} after {WITHIN:.0f} s: {' '.join(now.cells())}; see `kubectl describe hpa`"
            )
        await asyncio.sleep(LOOK_EVERY)


async def _figures(walk: Walk) -> str:
    pods = await walk.objects("pods", *NAMESPACE, "-l", "app=burn")
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE[1]}/pods?labelSelector=app%3Dburn"
    known = {
        each["metadata"]["name"] for each in json.loads(await walk.kubectl("get", "--raw", path))["items"]
    }
    missing = sorted({pod["metadata"]["name"] for pod in pods} - known)
    return f"none of {', '.join(missing)}" if missing else ""


def moment(hpa: expect.Object, pods: expect.Listing, *, worker: str) -> Moment:
    """How things stand, from what the apiserver has."""
    running = [pod["spec"]["nodeName"] for pod in pods if not expect.unready_reason(pod)]
    status, target = hpa.get("status", {}), hpa["spec"]["metrics"][0]["resource"]["target"]
    current = (status.get("currentMetrics") or [{}])[0].get("resource", {}).get("current", {})
    usage = current.get("averageUtilization")
    return Moment(
        usage=f"{'-' if usage is None else usage}/{target['averageUtilization']} %",
        wanted=status.get("desiredReplicas", 0),
        present=len(pods),
        worker=running.count(worker),
        virtual=len(running) - running.count(worker),
    )


def room_beside(node: expect.Object, pods: expect.Listing) -> int:
    """Millicores of a node that nobody has requested."""
    living = [pod for pod in pods if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}]
    return milli(node["status"]["allocatable"]["cpu"]) - sum(_requests(pod) for pod in living)


def _requests(pod: Mapping[str, Any]) -> int:
    containers = pod["spec"]["containers"]
    return sum(milli(each.get("resources", {}).get("requests", {}).get("cpu", "0")) for each in containers)
