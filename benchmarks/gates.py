"""What the gate adds to a pod's creation: nothing, the apiserver's policy by index, or the controller's webhook.

    gates.py [--pods 500] [--rounds 3] [--rate 100] [--policies 0,1,20,200] [--json FILE]

One tuned control plane; every form has its turn in every round, with every number of policies, so that all see the
same machine. One policy matches, where there is any. Controllers and scheduler stand still meanwhile: what is
measured is the creation.
benchmarks/README.md says what the numbers mean.
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
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from gauges import cpu_seconds
from lean import JSON, Connection, Server, call
from pods import aligned, control_plane, free_port, overspill, run, say

from overspill.local.placement import webhook_at
from overspill.placement.index import INDEX, INDEXED_LABEL, index_of
from overspill.placement.policy import Policy

DEPLOY = Path(__file__).parents[1] / "deploy"
FORMS = ("none", "policy", "webhook")
GROUP = "placement.overspill.dev/v1alpha1"
GATE = {"name": "overspill.dev/assign"}
HASH = "6f9c7d5b8"
IN_FLIGHT = 8
# A Lease that somebody holds for a day: the controller answers as a webhook, and never leads.
HELD = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "held"},
    "spec": {"holderIdentity": "benchmark", "leaseDurationSeconds": 86400},
}


@dataclass
class Cell:
    """One form with so many policies, all rounds together."""

    form: str
    policies: int
    apiserver_ms: list[float] = field(default_factory=list)
    webhook_ms: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


async def main() -> None:
    """Measure all, print a table, write JSON."""
    arguments = parsed()
    cells = [Cell(form, count) for count in arguments.policies for form in FORMS]
    async with control_plane(f"bench-gates-{os.getpid()}") as plane:
        bench = Bench(plane, arguments)
        await bench.prepare()
        async with bench.webhook():
            await bench.measure(Cell("none", arguments.policies[0]))  # warms up
            for number in range(arguments.rounds):
                for cell in cells[number % len(cells) :] + cells[: number % len(cells)]:
                    await bench.measure(cell)
    print(table(cells, arguments))
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "cells": [asdict(cell) for cell in cells],
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {arguments.json}")


class Bench:
    """All forms on one control plane."""

    def __init__(self, plane: dict, arguments: argparse.Namespace) -> None:
        self.name, self.arguments = plane["name"], arguments
        self.server = Server(plane["kubeconfig"])
        self.kubeconfig = plane["kubeconfig"]
        self.pids = {process["name"]: process["pid"] for process in plane["processes"]}
        self.address = f"127.0.0.1:{free_port()}"
        self.answering = 0  # pid of the webhook

    async def prepare(self) -> None:
        """Definitions, roles, a namespace for each number of policies."""
        await self.kubectl("apply", "-k", str(DEPLOY / "placement/definitions"))
        crds = [f"crd/placement{kind}.placement.overspill.dev" for kind in ("policies", "indexes")]
        await self.kubectl("wait", "--for=condition=Established", *crds)
        await self.apply([{**HELD, "metadata": {"name": "held", "namespace": "kube-system"}}])
        for count in self.arguments.policies:
            namespace = f"gates-{count}"
            policies = [policy(number, namespace) for number in range(count)]
            await self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])
            if policies:
                await self.apply([*policies, index(policies, namespace)])
            await self.until(self.has_account, namespace)

    async def has_account(self, namespace: str) -> bool:
        """Whether pods can be created in a namespace."""
        status, _ = await call(self.server, "GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        return status == 200

    @contextlib.asynccontextmanager
    async def webhook(self) -> AsyncIterator[None]:
        """A controller that answers and does nothing else."""
        flags = ("--kubeconfig", self.kubeconfig, "--lease-name", "held", "--log-level", "warning")
        addresses = ("--webhook-address", self.address, "--health-address", "127.0.0.1:0")
        process = await asyncio.create_subprocess_exec(overspill(), "controller", *flags, *addresses)
        self.answering = process.pid
        try:
            yield
        finally:
            process.terminate()
            await process.wait()

    async def measure(self, cell: Cell) -> None:
        """One turn of one form."""
        say(cell.form, f"{cell.policies} policies")
        namespace = f"gates-{cell.policies}"
        async with self.in_force(cell.form):
            with self.standing_still():
                before = self.cpu()
                latencies = await self.create(namespace, gated=cell.form == "none" and cell.policies > 0)
                after = self.cpu()
            await call(self.server, "DELETE", f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0")
        cell.latencies += latencies
        apiserver, webhook = (
            (end - start) / len(latencies) * 1e3 for start, end in zip(before, after, strict=True)
        )
        cell.apiserver_ms.append(apiserver)
        cell.webhook_ms.append(webhook)

    @contextlib.asynccontextmanager
    async def in_force(self, form: str) -> AsyncIterator[None]:
        """Have one form's objects there, and no other's."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(webhook_at(f"https://{self.address}"))
            file.flush()
            manifest = {"none": "", "policy": str(DEPLOY / "placement/gate.yaml"), "webhook": file.name}[form]
            if manifest:
                await self.kubectl("apply", "-f", manifest)
                await self.until(self.adds_gates)
            try:
                yield
            finally:
                if manifest:
                    await self.kubectl("delete", "-f", manifest)
                    await self.until(self.adds_none)

    async def adds_gates(self) -> bool:
        """Whether new pods of a namespace with policies get their gate."""
        path = f"/api/v1/namespaces/gates-{max(self.arguments.policies)}/pods?dryRun=All"
        status, body = await call(self.server, "POST", path, pod("probe", gated=False), accept=JSON)
        assert status == 201, body
        return b"overspill.dev/assign" in body

    async def adds_none(self) -> bool:
        """Whether they do not."""
        return not await self.adds_gates()

    @contextlib.contextmanager
    def standing_still(self):  # noqa: ANN201
        """Keep controllers and scheduler from working meanwhile."""
        pids = [self.pids[name] for name in ("kube-controller-manager", "kube-scheduler")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def cpu(self) -> tuple[float, float]:
        """CPU seconds so far of the apiserver and of the webhook."""
        return cpu_seconds(self.pids["kube-apiserver"]), cpu_seconds(self.answering)

    async def create(self, namespace: str, *, gated: bool) -> list[float]:
        """Create pods at a pace; returns how long each took, in seconds."""
        numbers, latencies = iter(range(self.arguments.pods)), []
        began = time.monotonic()

        async def work() -> None:
            async with Connection(self.server) as connection:
                for number in numbers:
                    await asyncio.sleep(began + number / self.arguments.rate - time.monotonic())
                    body = pod(f"web-{number:05d}", gated=gated)
                    path, sent = f"/api/v1/namespaces/{namespace}/pods", time.monotonic()
                    status, reply = await connection.request("POST", path, body, agent="bench-gates")
                    if status != 201:
                        sys.exit(f"create: {status} {reply[:300].decode()}")
                    latencies.append(time.monotonic() - sent)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(work())
        return latencies

    async def kubectl(self, *arguments: str) -> None:
        await run(overspill(), "kubectl", "--name", self.name, "--", *arguments)

    async def apply(self, manifests: list[dict]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": manifests}, file)
            file.flush()
            await self.kubectl(
                "apply", "--server-side", "-f", file.name
            )  # as the controller writes its index

    async def until(self, check, *arguments: str) -> None:  # noqa: ANN001
        async with asyncio.timeout(60):
            while not await check(*arguments):  # noqa: ASYNC110 - the apiserver tells nobody
                await asyncio.sleep(0.1)


def policy(number: int, namespace: str) -> dict:
    """The policy of Deployment web, or of one that has no pods."""
    name = "web" if number == 0 else f"other-{number}"
    return {
        "apiVersion": GROUP,
        "kind": "PlacementPolicy",
        # As the controller leaves it: in the index, and looked for nowhere else.
        "metadata": {"name": name, "namespace": namespace, "labels": {INDEXED_LABEL: "true"}},
        "spec": {
            "targetRef": {"kind": "Deployment", "name": name},
            "pools": [{"name": "base", "maxReplicas": 5, "nodeSelector": {"pool": "base"}}],
        },
    }


def index(policies: list[dict], namespace: str) -> dict:
    """The index that the controller would write."""
    return {
        "apiVersion": GROUP,
        "kind": "PlacementIndex",
        "metadata": {"name": INDEX, "namespace": namespace},
        "spec": index_of(msgspec.convert(policies, list[Policy])),
    }


def pod(name: str, *, gated: bool) -> bytes:
    """A pod of Deployment web, with the gate already or without."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"web-{HASH}",
        "uid": "u",
        "controller": True,
    }
    metadata = {"name": name, "labels": {"app": "web", "pod-template-hash": HASH}, "ownerReferences": [owner]}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                **({"schedulingGates": [GATE]} if gated else {}),
                "automountServiceAccountToken": False,
                "containers": [{"name": "web", "image": "registry.example/web:v1"}],
            },
        }
    ).encode()


def table(cells: list[Cell], arguments: argparse.Namespace) -> str:
    """For each number of policies a row of each form; medians of the rounds."""
    rows = [["policies", "gate by", "apiserver CPU", "over none", "webhook CPU", "p50", "p90", "p99"]]
    for cell in cells:
        none = next(each for each in cells if each.form == "none" and each.policies == cell.policies)
        more = statistics.median(a - b for a, b in zip(cell.apiserver_ms, none.apiserver_ms, strict=True))
        percentiles = statistics.quantiles(cell.latencies, n=100)
        rows.append(
            [
                str(cell.policies),
                cell.form,
                f"{statistics.median(cell.apiserver_ms):.2f} ms",
                "-" if cell is none else f"{more:+.2f} ms",
                f"{statistics.median(cell.webhook_ms):.2f} ms" if cell.form == "webhook" else "-",
                *(f"{percentiles[at - 1] * 1e3:.1f} ms" for at in (50, 90, 99)),
            ]
        )
    title = f"{arguments.rounds} rounds of {arguments.pods} pods each at {arguments.rate:.0f}/s; CPU per pod"
    return f"{title}\n{aligned(rows)}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument(
        "--policies", type=lambda text: list(map(int, text.split(","))), default=[0, 1, 20, 200]
    )
    parser.add_argument("--json", type=Path, default=Path("bench-gates.json"))
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
