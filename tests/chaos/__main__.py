"""Run a workload while things go wrong, and tell what did not hold.

    PYTHONPATH=tests .venv/bin/python -m chaos --seed 7 [--minutes 5] [--pods 300]

Prints the schedule as it is carried out, and a table at the end. The same seed gives the same schedule.
docs/chaos.md tells more.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from chaos.api import Api
from chaos.driver import Report, Run
from chaos.proxy import Proxy
from chaos.schedule import rounds
from chaos.world import OVERSPILL, World

NODES = 4


def main() -> int:
    """All seeds on one cluster."""
    arguments = parsed()
    if arguments.dry_run:
        for seed in arguments.seed:
            for faults in rounds(seed, arguments.minutes * 60, every=arguments.every):
                print(*faults, "", sep="\n")
        return 0
    name = f"chaos-{os.getpid()}"
    try:
        subprocess.run([OVERSPILL, "up", "--name", name, "--virtual-nodes=1"], check=True)
        limits = {"minutes": arguments.minutes, "pods": arguments.pods, "every": arguments.every}
        reports = asyncio.run(runs(name, seeds=arguments.seed, **limits))
    finally:
        if not arguments.keep:
            subprocess.run([OVERSPILL, "down", "--name", name], check=False)
    show(reports)
    return 0 if all(report.ok() for report in reports) else 1


async def runs(name: str, *, seeds: Sequence[int], minutes: float, pods: int, every: float) -> list[Report]:
    """Run after run."""
    world = World(name, nodes=NODES)
    reports = []
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(world.plan.endpoint, world.paths.pki))
        proxy = await stack.enter_async_context(
            Proxy(world.plan.endpoint, world.paths.pki, host=world.plan.host_address, seed=seeds[0])
        )
        await world.prepare(api, proxy.port)
        for seed in seeds:
            say(f"seed {seed}")
            run = Run(world, proxy, api, seed=seed, pods=pods)
            try:
                reports.append(await run.run(seconds=minutes * 60, every=every, say=say))
            except BaseException:  # also who interrupts it wants to know why
                keep(world, run)
                raise
            for invariant, found in reports[-1].violations.items():
                for each in found:
                    say(f"VIOLATED  {invariant}: {each}")
            if not reports[-1].ok():
                keep(world, run)
    return reports


def keep(world: World, run: Run) -> None:
    """Copy the logs and what was seen, before the cluster goes."""
    folder = world.keep_logs()
    run.keep(folder)
    say(f"logs, and what was seen, are in {folder}")


def say(text: str) -> None:
    """One line, at once."""
    print(text, file=sys.stderr, flush=True)


def show(reports: list[Report]) -> None:
    """What was done, and what did not hold."""
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())))
    table = Table("", *(f"seed {report.seed}" for report in reports), box=None, pad_edge=False)
    table.add_row("faults", *(str(report.faults.total()) for report in reports))
    table.add_row("not done, one in the way of another", *(str(len(report.skipped)) for report in reports))
    table.add_row("pods", *(str(report.pods) for report in reports))
    table.add_row("minutes", *(f"{report.seconds / 60:.0f}" for report in reports))
    table.add_row("load average of 5 minutes", *(f"{report.load:.0f}" for report in reports))
    memory = [report.megabytes for report in reports]
    table.add_row("MB of an agent, before and after", *(f"{one:.0f}, {two:.0f}" for one, two in memory))
    table.add_row(
        "converged after, by round", *(", ".join(map(in_seconds, report.converged)) for report in reports)
    )
    longest = [", ".join(map(in_seconds, report.longest)) for report in reports]
    table.add_row("at most, under faults: Terminating beyond grace, a group without its pod", *longest)
    for invariant in dict.fromkeys(name for report in reports for name in report.violations):
        counts = [len(report.violations.get(invariant, ())) for report in reports]
        table.add_row(f"violations: {invariant}", *map(str, counts))
    Console(width=200).print(table)


def in_seconds(value: float | None) -> str:
    """Whole seconds."""
    return "never" if value is None else f"{value:.0f} s"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--pods", type=int, default=300)
    parser.add_argument("--every", type=float, default=8, help="seconds between two faults")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--dry-run", action="store_true", help="print the schedule only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
