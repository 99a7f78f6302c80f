"""The heart of the walkthrough: a service outgrows its base under load, is rolled out, and shrinks to its base.

In: a `Walk` over a cluster with one worker, virtual nodes, metrics-server and the controller. Out: an HPA that goes
up and down on the CPU that pods really burn, told as a table by pool that grows by a row with every change.
Invariants, held at every look: base pods run on the worker and all others on virtual nodes; at least as many base pods
run as the policy says, and no revision has more. Scaling, out or in, does not touch them; only a rollout replaces them.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable

from msgspec import Struct

from overspill import names
from overspill.local import expect
from overspill.local.images import BUSYBOX
from overspill.local.paths import repository
from overspill.local.walk import Unmet, Walk

__all__ = ["Moment", "Pool", "grow_and_shrink", "moment"]

NAMESPACE = ("-n", "load")
EXAMPLE = "examples/autoscaled.yaml"
BASE, MOST = 3, 12
# Each way takes some 30 s on an idle machine.
WITHIN = 300.0
LOOK_EVERY = 0.5
# Many that pause long: about as many requests a second on a busy machine as on an idle one. None waits for ever,
# such as for a pod that a rollout took away.
LOOP = "while :; do timeout 5 wget -qO- http://web/cgi-bin/burn; sleep 2; done"
CLIENT = f"for each in $(seq 20); do ({LOOP}) & done; trap exit TERM; wait"
HEADINGS = ("SECONDS", "CPU/TARGET", "WANTED", "BASE: WORKER", "ELASTIC: VIRTUAL NODES")


class Pool(Struct, frozen=True):
    """Pods of one pool that run and are ready, by revision."""

    new: int = 0
    old: int = 0

    def __str__(self) -> str:
        return f"{self.old} old, {self.new} new" if self.old else str(self.new)


class Moment(Struct, frozen=True):
    """How things stand: what the autoscaler sees and wants, and which pods there are.

    Attributes:
        usage: CPU by target, in percent of what pods request.
        wanted: pods that the autoscaler wants.
        present: pods that there are, whatever their state.
        misplaced: names of pods that run where their pool is not.
    """

    usage: str
    wanted: int
    present: int
    base: Pool
    elastic: Pool
    misplaced: tuple[str, ...] = ()

    def settled(self, count: int) -> bool:
        """Whether so many are wanted and run, the base is full with new ones, and nothing else is left."""
        full = self.base == Pool(BASE) and self.elastic == Pool(count - BASE)
        return self.wanted == self.present == count and full

    @property
    def wrong(self) -> str:
        """What must never be, in words; "" when all is well."""
        if self.misplaced:
            return f"not on the nodes of their pool: {', '.join(self.misplaced)}"
        if self.base.new + self.base.old < BASE:
            return f"{self.base} run in the base, which is to have {BASE}"
        if max(self.base.new, self.base.old) > BASE:
            return f"{self.base} run in the base, which has room for {BASE} of each revision"
        return ""

    def cells(self) -> tuple[str, ...]:
        """As a row of the table, without the time."""
        return (self.usage, str(self.wanted), str(self.base), str(self.elastic))


async def grow_and_shrink(walk: Walk, *, worker: str) -> None:
    """Out under load, a rollout, back without load."""
    await walk.show("create", "namespace", NAMESPACE[1])
    await walk.show(*NAMESPACE, "apply", "-f", _example())
    await walk.until(f"{BASE} pods run on {worker}", lambda: _base_runs(walk, worker))
    first = await _on(walk, worker)
    await walk.show(
        *(*NAMESPACE, "create", "deployment", "clients", f"--image={BUSYBOX}"), *("--", "sh", "-c", CLIENT)
    )
    await _follow(walk, worker, f"out to {MOST} pods", lambda now: now.settled(MOST))
    _same(walk, first, await _on(walk, worker), f"the {BASE} pods on {worker} are those of the beginning")
    await walk.show(*NAMESPACE, "rollout", "restart", "deployment/web")
    (old,) = {_label(pod, names.TEMPLATE_HASH) for pod in first.values()}
    await _follow(walk, worker, "rolled out", lambda now: now.settled(MOST), old=old)
    second = await _on(walk, worker)
    await walk.until("every pod has its figures", lambda: _figures(walk))
    await walk.show("top", "node")
    await walk.show(*NAMESPACE, "get", "pp,hpa")
    await walk.show(*NAMESPACE, "get", "pod", "-l", "app=web", "-o", "wide")
    await walk.show(*NAMESPACE, "scale", "deployment", "clients", "--replicas=0")
    await _follow(walk, worker, f"back to {BASE} pods", lambda now: now.settled(BASE))
    _same(walk, second, await _on(walk, worker), f"they are the {BASE} that the rollout left on {worker}")
    await walk.show(*NAMESPACE, "get", "pod", "-l", "app=web", "-o", "wide")
    await walk.show("delete", "namespace", NAMESPACE[1])


def _example() -> str:
    """The path as a user would type it."""
    return os.path.relpath(repository() / EXAMPLE)


async def _pods(walk: Walk) -> list[expect.Object]:
    return await walk.objects("pods", *NAMESPACE, "-l", "app=web")


async def _base_runs(walk: Walk, worker: str) -> str:
    pods = await _pods(walk)
    return expect.pods_run(pods, BASE) or expect.pods_on(pods, worker)


async def _on(walk: Walk, worker: str) -> dict[str, expect.Object]:
    """The pods on the worker, by uid."""
    pods = await _pods(walk)
    return {pod["metadata"]["uid"]: pod for pod in pods if pod["spec"].get("nodeName") == worker}


def _same(walk: Walk, before: dict[str, expect.Object], after: dict[str, expect.Object], what: str) -> None:
    if before.keys() != after.keys():
        raise Unmet(f"{what}: uids were {', '.join(sorted(before))} and are {', '.join(sorted(after))}")
    walk.tick(f"{what}, by uid")


async def _follow(
    walk: Walk, worker: str, what: str, done: Callable[[Moment], bool], *, old: str = ""
) -> None:
    """Tell every change until it is done.

    Args:
        walk: the terminal.
        worker: name of the worker.
        what: told when it is done.
        done: whether it is.
        old: the revision that is to go.

    Raises:
        Unmet: it was not in time, or a pod was where it must not be.
    """
    began = time.monotonic()
    walk.row(HEADINGS, HEADINGS)
    told: tuple[str, ...] = ()
    while True:
        (hpa,) = await walk.objects("hpa", *NAMESPACE)
        now = moment(hpa, await _pods(walk), worker=worker, old=old)
        seconds = time.monotonic() - began
        if now.cells() != told:
            told = now.cells()
            walk.row((f"{seconds:.0f}", *told), HEADINGS)
        if now.wrong:
            raise Unmet(now.wrong)
        if done(now):
            walk.tick(f"{what} in {seconds:.0f} s")
            return
        if seconds > WITHIN:
            raise Unmet(
                f"not {what} after {WITHIN:.0f} s: {' '.join(now.cells())}; see `kubectl describe hpa,pp`"
            )
        await asyncio.sleep(LOOK_EVERY)


async def _figures(walk: Walk) -> str:
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE[1]}/pods?labelSelector=app%3Dweb"
    known = {
        each["metadata"]["name"] for each in json.loads(await walk.kubectl("get", "--raw", path))["items"]
    }
    missing = sorted({pod["metadata"]["name"] for pod in await _pods(walk)} - known)
    return f"none of {', '.join(missing)}" if missing else ""


def moment(hpa: expect.Object, pods: expect.Listing, *, worker: str, old: str = "") -> Moment:
    """How things stand, from what the apiserver has; `old` is the revision that is to go."""
    status, target = hpa.get("status", {}), hpa["spec"]["metrics"][0]["resource"]["target"]
    current = (status.get("currentMetrics") or [{}])[0].get("resource", {}).get("current", {})
    usage = current.get("averageUtilization")
    running = [pod for pod in pods if not expect.unready_reason(pod)]
    base = [pod for pod in running if _label(pod, names.POOL_LABEL) == "base"]
    elastic = [pod for pod in running if _label(pod, names.POOL_LABEL) == "elastic"]
    misplaced = [pod for pod in base if pod["spec"]["nodeName"] != worker]
    misplaced += [pod for pod in elastic if pod["spec"]["nodeName"] == worker]
    return Moment(
        usage=f"{'-' if usage is None else usage}/{target['averageUtilization']} %",
        wanted=status.get("desiredReplicas", 0),
        present=len(pods),
        base=_by_revision(base, old),
        elastic=_by_revision(elastic, old),
        misplaced=tuple(sorted(pod["metadata"]["name"] for pod in misplaced)),
    )


def _by_revision(pods: expect.Listing, old: str) -> Pool:
    count = sum(_label(pod, names.TEMPLATE_HASH) == old for pod in pods)
    return Pool(new=len(pods) - count, old=count)


def _label(pod: expect.Object, key: str) -> str:
    value: str = pod["metadata"].get("labels", {}).get(key, "")
    return value
