"""What a pod costs on the ECI path: 3,000 container groups on one node, through the emulator.

    eci.py [--pods 3000] [--only quota|lifted] [--json FILE]

One agent on the backend `eci`, against `overspill emulator` over its simulated engine, on a fresh tuned control
plane for each side: with ECI's default quota (100 calls at once and 20 a second), and with the quota lifted on
both ends. Prints a table, writes JSON. benchmarks/README.md says what the numbers mean.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from gauges import cpu_seconds, scraped
from pods import Result, Run, aligned, control_plane, free_port, overspill, say

from overspill.backends.eci.client import Client
from overspill.backends.eci.credentials import find_credentials
from overspill.backends.eci.rates import DEFAULTS, Budget, Rates

SECRET = "benchmark-secret"
BURST, PER_SECOND = 100, 20
LIFTED = 100_000
# Of the client alone.
CALLS, IN_FLIGHT = 4000, 16
WAIT = "overspill_quota_wait_seconds"


@dataclass
class Side:
    """With the quota, or without."""

    name: str
    result: Result
    calls: dict[str, int]
    longest_wait: float
    emulator_ms: float


class EciRun(Run):
    """One agent on one emulator."""

    def __init__(self, plane: dict, arguments: argparse.Namespace, endpoint: dict) -> None:
        super().__init__(plane, "agent", arguments)
        self.endpoint = endpoint
        self.longest_wait = 0.0

    async def agent(self, node: str, folder: Path) -> Process:
        """The agent, as a user starts it."""
        log = (folder / f"{node}.log").open("wb")
        address = f"127.0.0.1:{free_port()}"
        self.health.append(address)
        options = {"region": "cn-hangzhou", "vSwitchIds": "vsw-a", "endpoint": self.endpoint["endpoint"]}
        if self.arguments.lifted:
            names = ("createRate", "createBurst", "deleteRate", "deleteBurst")
            options |= dict.fromkeys(names, str(LIFTED))
        command = [
            *(overspill(), "agent", "--node-name", node, "--backend", "eci", "--log-level", "warning"),
            *("--kubeconfig", self.kubeconfig, "--health-address", address),
            *("--kubelet-address", "127.0.0.1:0", "--kubelet-certificate", "self-signed"),
            *(f"--backend-option={name}={value}" for name, value in options.items()),
        ]
        return await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, env={**os.environ, **key()}
        )

    async def watch_queue(self) -> None:
        """Remember the longest wait that the agent told."""
        while True:
            for address in self.health:
                with contextlib.suppress(OSError):
                    told = await asyncio.to_thread(scraped, address, WAIT)
                    self.longest_wait = max(self.longest_wait, told)
            await asyncio.sleep(1)


def key() -> dict[str, str]:
    """The emulator's access key, as the agent's environment has it."""
    return {"ALIBABA_CLOUD_ACCESS_KEY_ID": "emulator", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET}


async def main() -> None:
    """Measure both sides, and the client alone."""
    arguments = parsed()
    sides = []
    for name in [arguments.only] if arguments.only else ["quota", "lifted"]:
        arguments.lifted = name == "lifted"
        async with (
            emulator(lifted=arguments.lifted) as endpoint,
            control_plane(f"bench-eci-{os.getpid()}-{name}") as plane,
        ):
            sides.append(await measured(EciRun(plane, arguments, endpoint), name))
    async with emulator(lifted=True) as endpoint:
        client_ms = await client_alone(endpoint["endpoint"])
    print(table(sides, client_ms, arguments.pods))
    report = {"pods": arguments.pods, "cores": os.cpu_count(), "load": os.getloadavg()}
    report |= {"client_ms_per_call": client_ms, "sides": [asdict(side) for side in sides]}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {arguments.json}")


async def measured(run: EciRun, name: str) -> Side:
    """One side."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(run.watch_queue())
        result = await run.measure()
        watching.cancel()
    calls = (await asyncio.to_thread(status, run.endpoint["admin"]))["calls"]
    emulator_ms = cpu_seconds(run.endpoint["pid"]) / run.arguments.pods * 1000
    return Side(name, result, calls, run.longest_wait, emulator_ms)


@contextlib.asynccontextmanager
async def emulator(*, lifted: bool) -> AsyncIterator[dict]:
    """A running emulator: where it is, and its pid."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--state", folder, "--vswitch", "vsw-a=cn-hangzhou-h:10.64.0.0/18", "--log-level", "warning"]
        if lifted:
            flags.append("--unlimited-rate")
        process = await asyncio.create_subprocess_exec(
            *(overspill(), "emulator", "serve", *flags),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OVERSPILL_EMULATOR_ACCESS_KEY_SECRET": SECRET},
        )
        try:
            assert process.stdout
            await process.stdout.readline()  # once everything answers
            yield json.loads((Path(folder) / "endpoint.json").read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()


def status(admin: str) -> dict:
    """What the emulator has counted."""
    with urllib.request.urlopen(f"{admin}/status", timeout=10) as reply:
        return json.load(reply)


class Nothing(msgspec.Struct):
    """An answer that is not looked at."""


async def client_alone(api: str) -> float:
    """CPU milliseconds of one signed call, without an agent around it."""
    say("client", f"{CALLS} calls")
    budgets = dict.fromkeys(DEFAULTS, Budget(LIFTED, LIFTED))
    left = iter(range(CALLS))
    credentials = find_credentials(key(), region="cn-hangzhou")
    async with Client(
        endpoint=api, region="cn-hangzhou", credentials=credentials, rates=Rates(budgets)
    ) as client:

        async def work() -> None:
            for _ in left:
                await client.call("DescribeContainerGroupStatus", {"Limit": 200}, Nothing)

        before = time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(work())
        return (time.process_time() - before) / CALLS * 1000


def table(sides: list[Side], client_ms: float, pods: int) -> str:
    """The results side by side."""
    rows = [[f"{pods} container groups, one agent", *(side.name for side in sides)]]

    def row(name: str, *values: str) -> None:
        rows.append([name, *values])

    for title in ("start", "delete"):
        phases = [getattr(side.result, title) for side in sides]
        done = "Running" if title == "start" else "gone"
        row(f"{title}: all {done}", *(f"{p.took:.1f} s ({p.rate:.0f}/s)" for p in phases))
        row(f"{title}: p50 / p99", *(f"{p.p50:.1f} / {p.p99:.1f} s" for p in phases))
        row(f"{title}: agent CPU per pod", *(f"{p.agent_ms:.2f} ms" for p in phases))
    best = (pods - BURST) / PER_SECOND
    row("start: as fast as the quota allows", *(used(side, best) for side in sides))
    row("longest wait that the agent told", *(f"{side.longest_wait:.0f} s" for side in sides))
    for action in sorted({action for side in sides for action in side.calls}):
        row(f"{action} per pod life", *(f"{side.calls.get(action, 0) / pods:.3f}" for side in sides))
    row("calls of ECI per pod life", *(f"{sum(side.calls.values()) / pods:.2f}" for side in sides))
    row("agent CPU per pod life", *(f"{cpu(side.result):.2f} ms" for side in sides))
    row("emulator CPU per pod life", *(f"{side.emulator_ms:.2f} ms" for side in sides))
    row("client alone: CPU per call", *(f"{client_ms:.2f} ms" for _ in sides))
    row("idle CPU", *(f"{side.result.idle_agent_percent:.1f} %" for side in sides))
    row("peak RSS", *(f"{max(side.result.peak_mb):.0f} MB" for side in sides))
    return aligned(rows)


def used(side: Side, best: float) -> str:
    """How much of the quota was in use until the last pod ran."""
    return f"{best:.0f} s: {best / side.result.start.took:.0%}" if side.name == "quota" else "-"


def cpu(result: Result) -> float:
    """Of start and delete."""
    return result.start.agent_ms + result.delete.agent_ms


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=3000)
    parser.add_argument("--only", choices=["quota", "lifted"])
    parser.add_argument("--json", type=Path, default=Path("bench-eci.json"))
    parser.set_defaults(nodes=1, rate=0.0, lifted=False)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
