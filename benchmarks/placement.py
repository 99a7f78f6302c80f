"""What it costs to place a pod: gated pods at several rates, placed by a policy, by a bare loop, and not at all.

    placement.py [--rates 10,100,500,0] [--only none|bare|overspill] [--json FILE]

Makes a fresh tuned control plane for each side, with nodes that have no kubelet, loads it at each rate (0: flat out),
then has a standing queue of gated pods placed; last, a Deployment under a policy is scaled in. Prints a table, writes
JSON. benchmarks/README.md says what the numbers mean.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gauges import Reading
from lean import call
from pods import (
    HERE,
    LEASES,
    SETTLE,
    Run,
    aligned,
    control_plane,
    free_port,
    lease,
    overspill,
    run,
    say,
    start,
    until,
)

NAMESPACE = "bench-0"
GATE = "overspill.dev/assign"
POLICIES = f"/apis/placement.overspill.dev/v1alpha1/namespaces/{NAMESPACE}/placementpolicies"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
# Of each rate: some twenty seconds, and enough for a p99.
PODS_AT = {10.0: 200, 100.0: 1500, 500.0: 2000, 0.0: 2000}
QUEUE = 1500
BASE, OUT, IN = 5, 500, 5
CAPACITY = {"cpu": "100k", "memory": "100Ti", "pods": "100k"}
WITHIN = 300.0
SIDES = {"none": "no policy", "bare": "bare loop", "overspill": "overspill"}


@dataclass
class Round:
    """Pods created at one rate, until all are bound; times in seconds from the reply to the create."""

    rate: float
    pods: int
    loader_rate: float
    bound_rate: float
    free: tuple[float, float]
    bound: tuple[float, float]
    cpu_ms: dict[str, float]
    calls: dict[str, float]


@dataclass
class Side:
    """One side's."""

    side: str
    rounds: list[Round] = field(default_factory=list)
    queue_rate: float = 0.0
    scale_in: dict[str, int] = field(default_factory=dict)


async def main() -> None:
    """Measure each side on a control plane of its own."""
    arguments = parsed()
    sides = []
    for name in [arguments.only] if arguments.only else SIDES:
        async with control_plane(f"bench-{os.getpid()}-{name}") as plane:
            sides.append(await PlacementRun(plane, name, arguments).measured())
    print(table(sides))
    report = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count()}
    report |= {"load": os.getloadavg(), "sides": [asdict(side) for side in sides]}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {arguments.json}")


class PlacementRun(Run):
    """One side on one control plane."""

    async def measured(self) -> Side:
        """All rounds, the standing queue, the scale-in."""
        say(self.side, "prepare")
        result = Side(self.side)
        await self.prepare_nodes()
        if self.side == "overspill":
            await self.prepare_policies()
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            async with self.heartbeats():
                async with self.placer() as placer:
                    for rate in self.arguments.rates:
                        result.rounds.append(await self.round(rate, placer))
                    if self.side == "overspill":
                        result.scale_in = await self.scaled_in(placer)
                if self.side != "none":
                    result.queue_rate = await self.queue()
        return result

    async def prepare_nodes(self) -> None:
        """Two nodes of the cluster's own and two virtual ones, as roomy as can be."""
        await self.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        account = {"metadata": {"name": "default"}}
        await self.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
        taint = {"key": "virtual-kubelet.io/provider", "value": "bench", "effect": "NoSchedule"}
        for number, name in enumerate(self.nodes):
            virtual = number % 2
            labels = {"kubernetes.io/hostname": name} | ({"type": "virtual-kubelet"} if virtual else {})
            spec = {"taints": [taint]} if virtual else {}
            ready = {"type": "Ready", "status": "True", "reason": "Bench", "message": ""}
            status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready]}
            node = {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}
            await self.create("/api/v1/nodes", node)
            await self.create(LEASES, {"metadata": {"name": name}, "spec": lease(name)})

    async def prepare_policies(self) -> None:
        """Definitions and gates as a user applies them; one policy for the loader's pods, one for a Deployment."""
        for what in ("-k", "deploy/placement/definitions"), ("-f", "deploy/placement/gate.yaml"):
            await self.kubectl("apply", what[0], str(HERE.parent / what[1]))
        await self.kubectl("wait", "--for=condition=Established", "crd", "--all")
        virtual = [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]
        toleration = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}
        base = {"name": "base", "maxReplicas": BASE, "nodeAffinity": {"matchExpressions": virtual}}
        elastic = {
            "name": "elastic",
            "nodeSelector": {"type": "virtual-kubelet"},
            "tolerations": [toleration],
        }
        for name, whose in {
            "web": {"selector": {"matchLabels": {"app": "bench"}}},
            "scaled": {"targetRef": {"name": "scaled"}},
        }.items():
            policy = {"metadata": {"name": name}, "spec": {**whose, "pools": [base, elastic]}}
            kind = {"apiVersion": "placement.overspill.dev/v1alpha1", "kind": "PlacementPolicy"}
            await self.create(POLICIES, {**kind, **policy})

    async def round(self, rate: float, placer: list[Process]) -> Round:
        """Create at a rate, wait until all are bound, delete."""
        say(self.side, f"{rate:g}/s" if rate else "flat out")
        count = PODS_AT.get(rate, int(rate * 20))
        seen = self.folder / "seen.json"
        async with self.witness(seen, count) as witness:
            await asyncio.sleep(SETTLE)
            before = await self.reading(placer)
            loaded = await self.load("create", count, rate)
            await until(witness, "bound")
            await asyncio.sleep(1)  # what comes just after belongs to it
            cost = (await self.reading(placer)).since(before)
            await self.load("delete", count)
            await until(witness, "written")
        return judged(rate, loaded, json.loads(seen.read_text()), cost)

    async def queue(self) -> float:
        """Pods a second that are let go, of a queue that stood before anybody placed."""
        say(self.side, "standing queue")
        seen = self.folder / "seen.json"
        async with self.witness(seen, QUEUE) as witness:
            await self.load("create", QUEUE)
            async with self.placer():
                await until(witness, "bound")
                await self.load("delete", QUEUE)
            await until(witness, "written")
        times = json.loads(seen.read_text())["free"].values()
        return (QUEUE - 1) / (max(times) - min(times))

    async def scaled_in(self, placer: list[Process]) -> dict[str, int]:
        """What is written when a Deployment shrinks to its base."""
        say(self.side, "scale in")
        labels = {"app": "scaled"}
        container = {"name": "web", "image": "registry.example/web:v1"}
        spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
        template = {"metadata": {"labels": labels}, "spec": spec}
        body = {"replicas": OUT, "selector": {"matchLabels": labels}, "template": template}
        await self.create(DEPLOYMENTS, {"metadata": {"name": "scaled"}, "spec": body})
        await self.until_bound(OUT)
        await asyncio.sleep(SETTLE)
        before = await self.reading(placer)
        await self.kubectl("-n", NAMESPACE, "scale", "deployment", "scaled", f"--replicas={IN}")
        await self.until_bound(IN)
        await asyncio.sleep(SETTLE)
        written = (await self.reading(placer)).since(before).requests
        await self.kubectl("-n", NAMESPACE, "delete", "deployment", "scaled")
        names = ("PATCH pods", "PATCH placementpolicies/status")
        return {name: written[name] for name in names}

    async def until_bound(self, count: int) -> None:
        """Wait until the Deployment has so many pods, all of them bound."""
        async with asyncio.timeout(WITHIN):
            while True:
                _, reply = await call(self.server, "GET", f"{PODS}?labelSelector=app%3Dscaled")
                pods = json.loads(reply)["items"]
                if len(pods) == count and all(pod["spec"].get("nodeName") for pod in pods):
                    return
                await asyncio.sleep(0.5)

    async def load(self, verb: str, count: int, rate: float = 0.0) -> dict:
        """Have the loader create or delete so many pods."""
        gate = ("--gate", GATE) if self.side == "bare" else ()
        options = ("--pods", str(count), "--namespaces", NAMESPACE, "--rate", str(rate), *gate)
        loader = await start(str(HERE / "loader.py"), verb, self.kubeconfig, *options)
        loaded, _ = await loader.communicate()
        if loader.returncode:
            raise SystemExit("the loader failed")
        return json.loads(loaded)

    async def kubectl(self, *args: str) -> str:
        """Run kubectl."""
        name = Path(self.kubeconfig).parent.name
        return await run(overspill(), "kubectl", "--name", name, "--", *args)

    @contextlib.asynccontextmanager
    async def placer(self) -> AsyncIterator[list[Process]]:
        """Whoever places, at work; nobody where nothing is gated."""
        if self.side == "none":
            yield []
            return
        process = await (self.controller() if self.side == "overspill" else self.bare_loop())
        try:
            yield [process]
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()

    async def bare_loop(self) -> Process:
        """The floor."""
        process = await start(str(HERE / "ungate.py"), self.kubeconfig)
        await until(process, "ready")
        return process

    async def controller(self) -> Process:
        """The controller, which leads and has indexed the policies."""
        log = self.folder / "controller.log"
        flags = ("--kubeconfig", self.kubeconfig, "--health-address", f"127.0.0.1:{free_port()}")
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                overspill(), "controller", *flags, stdout=out, stderr=out
            )
        async with asyncio.timeout(WITHIN):
            while "everything is listed" not in log.read_text() or not await self.indexed():
                if process.returncode is not None:
                    sys.exit(f"the controller ended by itself:\n{log.read_text()}")
                await asyncio.sleep(0.1)
        return process

    async def indexed(self) -> bool:
        """Whether pods of the policies are gated at the same cost however many policies there are."""
        _, reply = await call(self.server, "GET", POLICIES)
        labels = [each["metadata"].get("labels", {}) for each in json.loads(reply)["items"]]
        return all("placement.overspill.dev/indexed" in each for each in labels)


def judged(rate: float, loaded: dict, seen: dict, cost: Reading) -> Round:
    """Numbers per pod."""
    created, count = loaded["times"], len(loaded["times"])
    return Round(
        rate=rate,
        pods=count,
        loader_rate=count / loaded["took"],
        bound_rate=count / (max(seen["bound"].values()) - loaded["began"]),
        free=quantiles(created, seen["free"]),
        bound=quantiles(created, seen["bound"]),
        cpu_ms={name: round(used / count * 1000, 3) for name, used in sorted(cost.cpu.items())},
        calls={name: round(n / count, 3) for name, n in sorted(cost.requests.items()) if n},
    )


def quantiles(created: dict[str, float], seen: dict[str, float]) -> tuple[float, float]:
    """p50 and p99 of the time from one to the other."""
    waits = sorted(max(0.0, at - created[name]) for name, at in seen.items())
    return statistics.median(waits), waits[int(len(waits) * 0.99) - 1]


def table(sides: list[Side]) -> str:
    """The sides beside each other."""
    rows = [["", *(SIDES[side.side] for side in sides)]]
    for number, head in enumerate(sides[0].rounds):
        title = f"{head.rate:g}/s" if head.rate else "flat out"
        rounds = [side.rounds[number] for side in sides]
        gated = [side.side != "none" for side in sides]
        rows.append([f"{title}: {head.pods} pods created", *(f"{r.loader_rate:.0f}/s" for r in rounds)])
        rows.append([f"{title}: bound", *(f"{r.bound_rate:.0f}/s" for r in rounds)])
        gates = [times(r.free) if has else "-" for r, has in zip(rounds, gated, strict=True)]
        rows.append([f"{title}: gate p50 / p99", *gates])
        rows.append([f"{title}: bound p50 / p99", *(times(r.bound) for r in rounds)])
        for name in ("agent", "kube-apiserver", "kube-scheduler"):
            told = "placer" if name == "agent" else name
            rows.append([f"{title}: CPU per pod, {told}", *(f"{r.cpu_ms[name]:.2f} ms" for r in rounds)])
        rows.append(
            [f"{title}: PATCH pods per pod", *(f"{r.calls.get('PATCH pods', 0):.2f}" for r in rounds)]
        )
    floor = next((side.queue_rate for side in sides if side.side == "bare"), 0.0)
    rows.append(["standing queue: let go", *(queue_rate(side, floor) for side in sides)])
    for name in next((side.scale_in for side in sides if side.scale_in), {}):
        told = [str(side.scale_in[name]) if side.scale_in else "-" for side in sides]
        rows.append([f"{OUT} -> {IN} replicas: {name}", *told])
    return aligned(rows)


def times(both: tuple[float, float]) -> str:
    """p50 and p99."""
    return f"{both[0] * 1000:.0f} / {both[1] * 1000:.0f} ms"


def queue_rate(side: Side, floor: float) -> str:
    """Pods a second, and its part of what the bare loop reaches."""
    if not side.queue_rate:
        return "-"
    part = f" ({side.queue_rate / floor:.0%})" if floor and side.side != "bare" else ""
    return f"{side.queue_rate:.0f}/s{part}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rates = {"type": lambda text: [float(each) for each in text.split(",")]}
    parser.add_argument("--rates", default=list(PODS_AT), help="pods a second, 0 is flat out", **rates)
    parser.add_argument("--only", choices=SIDES, help="measure one side alone")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--json", type=Path, default=Path("bench-placement.json"))
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
