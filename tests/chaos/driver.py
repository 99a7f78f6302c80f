"""One run: a workload, rounds of faults with a calm after each, and what is watched meanwhile.

In: a cluster that is up, a seed, a length. Out: a `Report`. Invariant: the cluster is left healed and empty, so that
the next run can begin on it.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, field

from chaos import invariants
from chaos.api import Api
from chaos.history import History, Memory, NodeChange, alive, count_base, held, node_change, take
from chaos.injection import JUMP, Injector
from chaos.proxy import Proxy
from chaos.schedule import Fault, rounds
from chaos.workload import BASE, NAMESPACES, Workload, ticks
from chaos.world import World
from overspill.local.virtualnodes import AGENT_NAME, node_names

SAMPLE_SECONDS = 2.0
# How long no fault and no change comes before a round is judged.
QUIET_SECONDS = 15.0
# The invariant is a minute; on a busy machine the run waits longer to tell late from never.
CONVERGENCE, PATIENCE = 60.0, 600.0
# For ten minutes at most a Job's controller makes no pods after some have failed, and five at once count as five in a row.
# It counts them from when the pod's status says that it failed, which an agent may have written by a clock that was ahead.
JOB_PATIENCE = 720.0 + JUMP


class Report(Struct):
    """What became of a run.

    Attributes:
        pods: how many there ever were.
        megabytes: that an agent held, on average, before the first fault and after the last.
        converged: after how many seconds all was as desired, for each round; None if it never was.
        longest: for how many seconds a pod was Terminating beyond its grace, and a group without its pod.
    """

    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    violations: dict[str, list[str]] = field(default_factory=dict)
    pods: int = 0
    megabytes: tuple[float, float] = (0.0, 0.0)
    converged: list[float | None] = field(default_factory=list)
    longest: tuple[float, float] = (0.0, 0.0)
    load: float = 0.0

    def ok(self) -> bool:
        """Whether every invariant held."""
        return not any(self.violations.values())


def told(converged: float | None) -> str:
    """How soon it all came right."""
    return "it never came right" if converged is None else f"it came right after {converged:.0f} s"


class Run:
    """One run on one cluster."""

    def __init__(self, world: World, proxy: Proxy, api: Api, *, seed: int, pods: int) -> None:
        self._world, self._api = world, api
        self._injector = Injector(world, proxy, api)
        self._workload = Workload(api, pods=pods, seed=seed)
        self._history = History()
        self._seed, self._began = seed, time.time()

    async def run(self, *, seconds: float, every: float, say: Callable[[str], None]) -> Report:
        """Do it."""
        report = Report(self._seed, seconds)
        await self._workload.begin()
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(each()) for each in (self._watch, self._watch_nodes, self._sample)]
            await self._wait_until_converged(PATIENCE, say)
            before = held(self._history, seconds=QUIET_SECONDS, now=time.time())
            for faults in rounds(self._seed, seconds, every=every, nodes=self._world.nodes):
                await self._round(faults, report, every=every, say=say)
            report.megabytes = before, held(self._history, seconds=QUIET_SECONDS, now=time.time())
            await self._workload.end()
            await self._wait_until_empty(report)
            for task in watching:
                task.cancel()
        report.pods, report.load = len(self._history.pods), os.getloadavg()[1]
        return report

    async def _round(
        self, faults: list[Fault], report: Report, *, every: float, say: Callable[[str], None]
    ) -> None:
        """Let things go wrong; then, in the calm, all has to come right."""
        async with asyncio.TaskGroup() as tasks:
            churning = tasks.create_task(self._workload.churn(every=every / 2))
            await self._inject(faults, report, say)
            churning.cancel()
        await self._injector.heal()
        await self._workload.settle()
        report.converged.append(await self._wait_until_converged(PATIENCE, say))
        unfinished = await self._wait_for_jobs(say)
        await asyncio.sleep(QUIET_SECONDS)
        self._judge(report, unfinished + await self._missing() + await self._wrong_nodes())
        say(f"            calm: {told(report.converged[-1])}")

    def keep(self, folder: Path) -> None:
        """Write down all that was seen."""
        (folder / "history.json").write_bytes(msgspec.json.encode(self._history))

    async def _inject(self, faults: list[Fault], report: Report, say: Callable[[str], None]) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                say(f"{time.monotonic() - began:6.1f} s  {fault}")
                tasks.create_task(self._do(fault, report, say))

    async def _do(self, fault: Fault, report: Report, say: Callable[[str], None]) -> None:
        try:
            await self._injector.do(fault)
        except Exception as error:  # noqa: BLE001 - one fault in the way of another
            report.skipped.append(f"{fault}: {error!r}")
            say(f"            not done: {fault.kind}: {error!r}"[:200])
        else:
            report.faults[fault.kind] += 1

    async def _watch(self) -> None:
        async for kind, found in self._api.watch("/api/v1/pods"):
            now = time.time()
            if kind == "LISTED":
                for pod in self._history.pods.values():
                    if pod.gone is None and pod.uid not in found["uids"]:
                        pod.gone = now
            elif found["metadata"]["namespace"] not in NAMESPACES:
                continue
            elif take(self._history, kind, found, at=now).pool == "base":
                count_base(self._history, most=BASE, at=now)

    async def _watch_nodes(self) -> None:
        last: dict[str, NodeChange] = {}
        async for kind, found in self._api.watch("/api/v1/nodes"):
            if kind == "LISTED":
                continue
            now = node_change(kind, found, at=time.time())
            before = last.get(now.node)
            if before is None or msgspec.structs.replace(before, at=now.at) != now:
                self._history.nodes.append(now)
                last[now.node] = now

    async def _sample(self) -> None:
        async for _ in ticks(SAMPLE_SECONDS):
            await asyncio.to_thread(self._world.supervise)
            await asyncio.to_thread(self._world.hold_logs)
            await self._read_bill()
            now = time.time()
            for name, pid, megabytes in await asyncio.to_thread(self._world.megabytes):
                self._history.memory.append(Memory(now, pid, name, megabytes))

    async def _read_bill(self) -> None:
        """But for what an earlier run on this cluster has paid."""
        bill = await asyncio.to_thread(self._world.bill)
        self._history.bill = [line for line in bill if line.began >= self._began or line.ended is None]

    async def _missing(self) -> list[str]:
        desired = await self._workload.desired()
        await self._read_bill()
        return [*invariants.not_running_once(self._history, desired, AGENT_NAME)]

    async def _wrong_nodes(self) -> list[str]:
        """Virtual nodes that are missing, left over or not Ready."""
        wanted = dict.fromkeys(node_names(self._world.nodes), True)
        found = {
            each["metadata"]["name"]: ("Ready", "True")
            in {(c["type"], c["status"]) for c in each["status"].get("conditions", ())}
            for each in await self._api.items("/api/v1/nodes?labelSelector=type%3Dvirtual-kubelet")
        }
        return [
            f"node {name} is {found.get(name)}"
            for name in wanted | found
            if found.get(name) != wanted.get(name)
        ]

    async def _wait_until_converged(self, patience: float, say: Callable[[str], None]) -> float | None:
        """Seconds until everything was as desired; None if it never was."""
        began = time.monotonic()
        told: list[str] = []
        while time.monotonic() - began < patience:
            missing = await self._missing() + await self._wrong_nodes()
            if not missing:
                return time.monotonic() - began
            if missing != told and time.monotonic() - began > CONVERGENCE / 2:
                say("            " + "; ".join(missing[:4]))
                told = missing
            await asyncio.sleep(1)
        return None

    async def _wait_for_jobs(self, say: Callable[[str], None]) -> list[str]:
        """Jobs that never end; how long they take is their own affair."""
        began, told = time.monotonic(), ""
        while jobs := await self._workload.unfinished():
            late = time.monotonic() - began
            if late > JOB_PATIENCE:
                break
            if late > CONVERGENCE / 2 and (now := "; ".join(jobs)) != told:
                say(f"            waits for {now}")
                told = now
            await asyncio.sleep(1)
        return [f"job not done: {job}" for job in jobs]

    def _judge(self, report: Report, missing: list[str]) -> None:
        now, history = time.time(), self._history
        took = report.converged[-1]
        late = took is None or took > CONVERGENCE
        found = {
            "every desired pod runs once": missing,
            "converged within 60 s": [f"round {len(report.converged)}: {told(took)}"] if late else [],
            "no duplicate group": invariants.duplicates(history, now),
            "no leaked group": invariants.leaks(history, now),
            "no pod failed": invariants.failures(history),
            "base is bound": invariants.base_bound(history),
            "no pod stuck Terminating": invariants.terminating(history, now),
            "agents' memory is flat": invariants.memory(history),
        }
        for invariant, lines in found.items():
            known = report.violations.setdefault(invariant, [])
            known += [line for line in lines if line not in known]
        report.longest = (
            invariants.longest_terminating(history, now),
            invariants.longest_leftover(history, now),
        )

    async def _wait_until_empty(self, report: Report) -> None:
        """Nothing costs money once everything was deleted."""
        left: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                async for _ in ticks(1):
                    left = await self._left()
                    if not left and await self._workload.is_gone():
                        break
        report.violations["nothing left at the end"] = left

    async def _left(self) -> list[str]:
        await self._read_bill()
        running = [line for line in self._history.bill if line.ended is None]
        groups = [f"{line.group} of pod {line.pod} costs money" for line in running]
        return groups + [f"pod {pod}" for pod in alive(self._history)]
