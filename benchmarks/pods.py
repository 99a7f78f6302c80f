"""What a pod costs: 10,000 pods bound in advance to simulated virtual nodes, started and deleted.

    pods.py [--pods 10000] [--nodes 4] [--rate 0] [--peer probe] [--json FILE]

Makes a fresh tuned control plane for each side (the agent, then its peer), loads it, watches it
independently, and takes it down. Prints a table, writes JSON. benchmarks/README.md says what the
numbers mean.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gauges import Reading, cpu_seconds, peak_memory, requests_of, scraped
from lean import Server, call

HERE = Path(__file__).parent
NAMESPACES = [f"bench-{number}" for number in range(4)]
PATIENCE = 900.0
SETTLE = 3.0  # seconds of quiet before a phase is measured
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass
class Phase:
    """One phase: everything Running, or everything gone."""

    took: float
    rate: float
    loader_rate: float
    p50: float
    p99: float
    agent_ms: float
    apiserver_ms: float
    etcd_ms: float
    calls: dict[str, float]


@dataclass
class Result:
    """One side's."""

    side: str
    start: Phase
    delete: Phase
    idle_agent_percent: float
    peak_mb: list[float]
    relists: float
    watches_of_the_witness: int


async def main() -> None:
    """Measure each side on a control plane of its own."""
    arguments = parsed()
    sides = ["agent", *([] if arguments.peer == "none" else [arguments.peer])]
    if arguments.only:
        sides = [arguments.only]
    results = []
    for side in sides:
        async with control_plane(f"bench-{os.getpid()}-{side}") as plane:
            results.append(await Run(plane, side, arguments).measure())
    print(table(results, arguments))
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "pods": arguments.pods,
        "nodes": arguments.nodes,
        "rate": arguments.rate,
        "results": [asdict(result) for result in results],
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {arguments.json}")


class Run:
    """One side on one control plane."""

    def __init__(self, plane: dict, side: str, arguments: argparse.Namespace) -> None:
        self.side, self.arguments = side, arguments
        self.kubeconfig = plane["kubeconfig"]
        self.server = Server(self.kubeconfig)
        self.pids = {process["name"]: process["pid"] for process in plane["processes"]}
        self.nodes = [f"bench-node-{number}" for number in range(arguments.nodes)]
        self.health: list[str] = []

    async def measure(self) -> Result:
        """Start everything, delete everything."""
        say(self.side, "prepare")
        await self.prepare()
        with tempfile.TemporaryDirectory() as folder:
            seen = Path(folder) / "seen.json"
            async with (
                self.agents(Path(folder)) as agents,
                self.witness(seen, self.arguments.pods) as witness,
                self.heartbeats(),
            ):
                await asyncio.sleep(SETTLE)
                before = await self.reading(agents)
                await asyncio.sleep(SETTLE)
                idle = (await self.reading(agents)).since(before).cpu["agent"] / SETTLE * 100
                created, start_cost = await self.phase("create", "running", witness, agents)
                deleted, delete_cost = await self.phase("delete", "gone", witness, agents)
                await until(witness, "written")
                peaks = [peak_memory(agent.pid) for agent in agents]
                relists = await self.relists()
            times = json.loads(seen.read_text())
        return Result(
            side=self.side,
            start=self.judged(created, times["running"], start_cost, loaders="POST pods"),
            delete=self.judged(deleted, times["gone"], delete_cost, loaders="DELETE pods"),
            idle_agent_percent=idle,
            peak_mb=[round(peak, 1) for peak in peaks],
            relists=relists,
            watches_of_the_witness=times["watches"],
        )

    async def phase(
        self, verb: str, word: str, witness: Process, agents: list[Process]
    ) -> tuple[dict, Reading]:
        """Load, wait, and say what it cost."""
        say(self.side, verb)
        await asyncio.sleep(SETTLE)
        before = await self.reading(agents)
        loader = await start(
            *(str(HERE / "loader.py"), verb, self.kubeconfig, "--pods", str(self.arguments.pods)),
            *("--nodes", ",".join(self.nodes), "--namespaces", ",".join(NAMESPACES)),
            *("--rate", str(self.arguments.rate)),
        )
        loaded, _ = await loader.communicate()
        if loader.returncode:
            raise SystemExit("the loader failed")
        await until(witness, word)
        await asyncio.sleep(1)  # what comes just after belongs to it
        return json.loads(loaded), (await self.reading(agents)).since(before)

    def judged(self, load: dict, seen: dict[str, float], cost: Reading, *, loaders: str) -> Phase:
        """Numbers per pod; the loader's own calls are not the agent's."""
        pods = len(load["times"])
        took = max(seen.values()) - load["began"]
        waits = sorted(max(0.0, at - load["times"][name]) for name, at in seen.items())
        calls = dict(cost.requests)
        calls[loaders] = calls.get(loaders, 0) - pods
        return Phase(
            took=took,
            rate=pods / took,
            loader_rate=pods / load["took"],
            p50=statistics.median(waits),
            p99=waits[int(len(waits) * 0.99) - 1],
            agent_ms=cost.cpu["agent"] / pods * 1000,
            apiserver_ms=cost.cpu["kube-apiserver"] / pods * 1000,
            etcd_ms=cost.cpu["etcd"] / pods * 1000,
            calls={name: round(count / pods, 3) for name, count in sorted(calls.items()) if count},
        )

    async def reading(self, agents: list[Process]) -> Reading:
        """Now."""
        _, metrics = await call(self.server, "GET", "/metrics")
        cpu = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        cpu["agent"] = sum(cpu_seconds(agent.pid) for agent in agents)
        return Reading(cpu, requests_of(metrics.decode()))

    async def prepare(self) -> None:
        """Namespaces with the ServiceAccount that pods need, and the probe's nodes."""
        for name in NAMESPACES:
            await self.create("/api/v1/namespaces", {"metadata": {"name": name}})
            account = {"metadata": {"name": "default"}}
            await self.create(f"/api/v1/namespaces/{name}/serviceaccounts", account)
        if self.side != "agent":
            for name in self.nodes:
                await self.create("/api/v1/nodes", {"metadata": {"name": name}})
                await self.create(LEASES, {"metadata": {"name": name}, "spec": lease(name)})

    async def create(self, path: str, body: dict) -> None:
        """Create an object that may be there already."""
        status, reply = await call(self.server, "POST", path, json.dumps(body).encode())
        if status >= 300 and status != 409:
            raise SystemExit(f"{path}: {status} {reply.decode()}")

    @contextlib.asynccontextmanager
    async def agents(self, folder: Path) -> AsyncIterator[list[Process]]:
        """One process for each node, ready."""
        agents = [await self.agent(node, folder) for node in self.nodes]
        try:
            await asyncio.wait_for(self.ready(agents), 60)
            yield agents
        finally:
            for agent in agents:
                with contextlib.suppress(ProcessLookupError):
                    agent.send_signal(signal.SIGTERM)
            await asyncio.gather(*(agent.wait() for agent in agents))

    async def agent(self, node: str, folder: Path) -> Process:
        """One agent, or its peer."""
        log = (folder / f"{node}.log").open("wb")
        if self.side == "probe":
            command = [sys.executable, str(HERE / "probe.py"), node, self.kubeconfig]
        else:
            address = f"127.0.0.1:{free_port()}"
            self.health.append(address)
            command = [
                *(
                    overspill(),
                    "agent",
                    "--node-name",
                    node,
                    "--backend",
                    "simulated",
                    "--log-level",
                    "warning",
                ),
                *("--kubeconfig", self.kubeconfig, "--health-address", address),
                *("--kubelet-address", "127.0.0.1:0", "--kubelet-certificate", "self-signed"),
            ]
        return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)

    async def ready(self, agents: list[Process]) -> None:
        """Wait until every node is Ready; a probe is when it runs."""
        while self.side == "agent":
            if any(agent.returncode is not None for agent in agents):
                raise SystemExit("an agent ended by itself; run it alone to see why")
            _, nodes = await call(self.server, "GET", "/api/v1/nodes")
            conditions = [
                condition
                for node in json.loads(nodes)["items"]
                for condition in node.get("status", {}).get("conditions", ())
            ]
            if sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions) == len(self.nodes):
                return
            await asyncio.sleep(0.2)

    async def relists(self) -> float:
        """How often the agents had to list anew; the probe cannot, and ends where it had to."""
        if self.side != "agent":
            return 0
        return sum(scraped(address, "overspill_watch_relists_total") for address in self.health)

    @contextlib.asynccontextmanager
    async def witness(self, out: Path, pods: int) -> AsyncIterator[Process]:
        """The independent watch."""
        process = await start(
            str(HERE / "watcher.py"), self.kubeconfig, "--pods", str(pods), "--out", str(out)
        )
        try:
            await until(process, "ready")
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @contextlib.asynccontextmanager
    async def heartbeats(self) -> AsyncIterator[None]:
        """The leases of the probe's nodes, so that nobody declares its pods lost."""

        async def renew() -> None:
            while self.side != "agent":
                for name in self.nodes:
                    patch = json.dumps({"spec": lease(name)}).encode()
                    merge = "application/merge-patch+json"
                    await call(self.server, "PATCH", f"{LEASES}/{name}", patch, content_type=merge)
                await asyncio.sleep(10)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(renew())
            yield
            task.cancel()


def lease(holder: str) -> dict:
    """The spec of a fresh lease."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": now}


@contextlib.asynccontextmanager
async def control_plane(name: str, *flags: str) -> AsyncIterator[dict]:
    """A fresh control plane, by default without nodes and tuned for scale; nothing of it is left afterwards."""
    say(name, "up")
    flags = flags or ("--tuned", "--workers", "0", "--virtual-nodes", "0")
    try:
        await run(overspill(), "up", "--name", name, *flags)
        yield json.loads(await run(overspill(), "status", "--name", name, "-o", "json"))
    finally:
        await run(overspill(), "down", "--name", name)


def overspill() -> str:
    """The program beside this Python."""
    beside = shutil.which("overspill", path=str(Path(sys.executable).parent))
    return beside or shutil.which("overspill") or sys.exit("overspill is not installed; run `make setup`")


async def run(*command: str) -> str:
    """Run a program to its end; returns what it wrote to stdout."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{err.decode()}")
    return out.decode()


async def start(*arguments: str) -> Process:
    """Start one of our programs."""
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )


async def until(witness: Process, word: str) -> None:
    """Wait for a word of the witness, and show its counts while a person looks."""
    assert witness.stdout
    async with asyncio.timeout(PATIENCE):
        while line := (await witness.stdout.readline()).decode().strip():
            if line == word:
                return
            if sys.stderr.isatty():
                print(f"\r  {line:60}", end="", file=sys.stderr, flush=True)
    raise SystemExit("the witness ended early")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def say(*words: str) -> None:
    """Progress, for people."""
    print(f"{time.strftime('%H:%M:%S')} {' '.join(words)}", file=sys.stderr, flush=True)


def table(results: list[Result], arguments: argparse.Namespace) -> str:
    """The results side by side."""
    pace = f"{arguments.rate:g}/s" if arguments.rate else "flat out"
    rows = [[f"{arguments.pods} pods, {arguments.nodes} nodes, {pace}", *(result.side for result in results)]]

    def row(name: str, *values: str) -> None:
        rows.append([name, *values])

    for title, which in (("start", "start"), ("delete", "delete")):
        phases = [getattr(result, which) for result in results]
        done = "Running" if which == "start" else "gone"
        row(f"{title}: all {done}", *(f"{p.took:.1f} s ({p.rate:.0f}/s)" for p in phases))
        row(f"{title}: loader", *(f"{p.loader_rate:.0f}/s" for p in phases))
        row(f"{title}: p50 / p99", *(f"{p.p50:.2f} / {p.p99:.2f} s" for p in phases))
        row(f"{title}: agent CPU per pod", *(f"{p.agent_ms:.2f} ms" for p in phases))
        row(
            f"{title}: apiserver + etcd CPU per pod",
            *(f"{p.apiserver_ms:.2f} + {p.etcd_ms:.2f} ms" for p in phases),
        )
        for name in sorted({name for p in phases for name in p.calls}):
            if any(p.calls.get(name, 0) >= 0.01 for p in phases):
                row(f"{title}: {name} per pod", *(f"{p.calls.get(name, 0):.2f}" for p in phases))
    row("idle CPU, all agents", *(f"{result.idle_agent_percent:.1f} %" for result in results))
    row("peak RSS per agent", *(f"{max(result.peak_mb):.0f} MB" for result in results))
    row("relists", *(f"{result.relists:.0f}" for result in results))
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """Rows as a table, the first of them its head."""
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.0, help="pods a second; 0 is as fast as it goes")
    parser.add_argument("--peer", choices=["probe", "none"], default="probe", help="measured after the agent")
    parser.add_argument("--only", choices=["agent", "probe"], help="measure one side alone")
    parser.add_argument("--json", type=Path, default=Path("bench-pods.json"))
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
