"""How each kind of fault is done, and how it is undone.

In: a `Fault` of the schedule. Out: signals, orders of the proxy, commands of the emulator's admin port, and the
apiserver's own API. Thin on purpose: what happens when is decided in `schedule`.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable
from typing import ClassVar

from chaos.api import Api, Refused
from chaos.proxy import Proxy
from chaos.schedule import Fault
from chaos.workload import NAMESPACE, ticks
from chaos.world import EMULATOR, MOST_NODES, MOST_STILL, World
from overspill.errors import Retry
from overspill.local.commands import run, succeeds
from overspill.local.machine import enter
from overspill.local.virtualnodes import AGENT_NAME

# Beyond the quarter of an hour that a signature may be off.
JUMP = 1200
# Faults of the emulator, as its admin port takes them.
ORDERS: dict[str, dict[str, object]] = {
    "eci-5xx": {"kind": "error", "probability": 0.4},
    "eci-throttle": {"kind": "throttle", "probability": 0.4, "seconds": 1},
    "eci-lost-reply": {"kind": "lost-reply", "probability": 0.4},
    "eci-duplicate": {"kind": "duplicate", "probability": 0.4},
    "eci-latency": {"kind": "latency", "probability": 0.5, "seconds": 3},
    "no-stock": {"kind": "no-stock"},
    "no-addresses": {"kind": "no-addresses"},
    "schedule-failure": {"kind": "schedule-failure", "probability": 0.5},
    "clock-jump": {"kind": "clock-skew", "seconds": JUMP},
}


class Injector:
    """Does what a schedule says to one world."""

    def __init__(self, world: World, proxy: Proxy, api: Api) -> None:
        self._world, self._proxy, self._api = world, proxy, api
        self._full: set[int] = set()
        self._half_opens = 0

    async def do(self, fault: Fault) -> None:
        """Do it, wait for as long as it lasts, undo it."""
        if fault.kind in ORDERS:
            await self._order(fault)
        elif fault.kind in {"api-5xx", "api-429", "api-lost-reply", "expired"}:
            self._proxy.order(fault.kind, fault.seconds)
            await asyncio.sleep(fault.seconds)
        else:
            await self._own[fault.kind](self, fault)

    async def heal(self) -> None:
        """Whatever was done: undo it."""
        self._proxy.calm()
        await self._close()
        for name in ("etcd", "kube-apiserver", EMULATOR):
            self._world.start(name)
        for pids in self._world.pods().values():
            self._world.signal(pids, signal.SIGCONT)
        for name in (EMULATOR, "kube-apiserver"):
            self._world.signal({self._world.process(name).pid}, signal.SIGCONT)
        await self._world.emulator_answers()
        await self._world.scale(self._api, self._world.nodes)
        await self._world.emulator("DELETE", "/faults")
        for node in range(MOST_NODES):
            self._world.turn_clock(node, ahead=0.0)
        for node in [*self._full]:
            await self._empty(node)

    async def _order(self, fault: Fault) -> None:
        armed = await self._world.emulator("POST", "/faults", json.dumps(ORDERS[fault.kind]))
        path = f"/faults?number={json.loads(armed)['number']}"
        await asyncio.sleep(fault.seconds)
        async with asyncio.timeout(2 * MOST_STILL):
            async for _ in ticks(1):  # else it would be there for the rest of the run
                with contextlib.suppress(Retry):
                    await self._world.emulator("DELETE", path)
                    return

    async def _kill_agent(self, fault: Fault) -> None:
        self._world.signal(self._world.agent(fault.node), signal.SIGKILL)

    async def _kill_agents(self, _: Fault) -> None:
        for node in range(self._world.nodes):
            self._world.signal(self._world.agent(node), signal.SIGKILL)

    async def _stop_agent(self, fault: Fault) -> None:
        await self._stopped(self._world.agent(fault.node), fault.seconds)

    async def _kill_controllers(self, _: Fault) -> None:
        self._world.signal(self._world.controllers(), signal.SIGKILL)

    async def _stop_controllers(self, fault: Fault) -> None:
        await self._stopped(self._world.controllers(), fault.seconds)

    async def _stopped(self, pids: set[int], seconds: float) -> None:
        self._world.signal(pids, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._world.signal(pids, signal.SIGCONT)

    async def _kill_emulator(self, fault: Fault) -> None:
        await self._down(EMULATOR, fault.seconds)

    async def _stop_emulator(self, fault: Fault) -> None:
        await self._stopped({self._world.process(EMULATOR).pid}, fault.seconds)

    async def _kill_apiserver(self, fault: Fault) -> None:
        await self._down("kube-apiserver", fault.seconds)

    async def _stop_apiserver(self, fault: Fault) -> None:
        await self._stopped({self._world.process("kube-apiserver").pid}, fault.seconds)

    async def _kill_etcd(self, fault: Fault) -> None:
        await self._down("etcd", fault.seconds)

    async def _down(self, name: str, seconds: float) -> None:
        await asyncio.to_thread(self._world.kill, name)  # which waits until it is gone; the proxy goes on
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._world.start, name)

    async def _cut(self, _: Fault) -> None:
        self._proxy.cut()

    async def _half_open(self, _: Fault) -> None:
        """Whatever is sent over the connections that there are vanishes, for ever; new ones work."""
        self._half_opens += 1
        chains = []
        for hook, end in (("prerouting", "s"), ("output", "d")):
            rules = [
                f"ip {end}addr {host} tcp {end}port {port} drop" for host, port in sorted(self._proxy.peers())
            ]
            head = f"type filter hook {hook} priority -300; policy accept;"
            chains.append(f"chain {hook} {{ {head}\n" + "\n".join(rules) + "\n}")
        table = f"table ip {self._world.name}-{self._half_opens} {{\n" + "\n".join(chains) + "\n}"
        await run(["nft", "-f", "-"], stdin=table.encode())

    async def _close(self) -> None:
        for number in range(1, self._half_opens + 1):
            await succeeds(["nft", "delete", "table", "ip", f"{self._world.name}-{number}"])

    async def _turn_clock(self, fault: Fault) -> None:
        """One agent's clock is ahead or behind, and then right again."""
        self._world.turn_clock(fault.node, ahead=JUMP if fault.node % 2 else -JUMP)
        await asyncio.sleep(fault.seconds)
        self._world.turn_clock(fault.node, ahead=0.0)

    async def _interrupt(self, _: Fault) -> None:
        pods = await self._api.items(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dspot")
        uids = {each["metadata"]["uid"] for each in pods if each["status"].get("phase") == "Running"}
        groups = [line.group for line in self._world.bill() if line.ended is None and line.uid in uids]
        for group in groups[:2]:
            await self._world.emulator("POST", f"/spot/{group}")

    async def _stray(self, _: Fault) -> None:
        found = await self._api.ask("GET", "/api/v1/namespaces/kube-system")
        await self._world.stray(found["metadata"]["uid"])

    async def _delete_node(self, fault: Fault) -> None:
        await self._api.ask("DELETE", f"/api/v1/nodes/{AGENT_NAME}-{fault.node}")

    async def _scale(self, fault: Fault) -> None:
        """Fewer, more and fewer virtual nodes, each while the step before may be under way."""
        for agents in (1, MOST_NODES, 2, self._world.nodes):
            await self._world.scale(self._api, agents)
            await asyncio.sleep(fault.seconds / 4)

    async def _twin(self, fault: Fault) -> None:
        """The agent stands still, for long enough or not for another one to take its node; then there are two."""
        frozen = self._world.agent(fault.node)
        self._world.signal(frozen, signal.SIGSTOP)
        twin = await self._world.twin(fault.node)
        try:
            await asyncio.sleep(fault.seconds)
            self._world.signal(frozen, signal.SIGCONT)
            await asyncio.sleep(10)
        finally:
            self._world.signal(frozen, signal.SIGCONT)
            if twin.returncode is None:
                twin.kill()
            await twin.wait()

    async def _recreate(self, fault: Fault) -> None:
        """A pod of the StatefulSet is deleted by force while its agent cannot see that."""
        agent = self._world.agent(fault.node)
        self._world.signal(agent, signal.SIGSTOP)
        try:
            pods = await self._api.items(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Ddb")
            here = [each for each in pods if each["spec"].get("nodeName") == f"{AGENT_NAME}-{fault.node}"]
            for each in here[:2]:
                await self._forced(each["metadata"]["name"])
            await asyncio.sleep(fault.seconds)
        finally:
            self._world.signal(agent, signal.SIGCONT)

    async def _forced(self, name: str) -> None:
        try:
            await self._api.ask(
                "DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}", {"gracePeriodSeconds": 0}
            )
        except Refused as refused:
            if refused.status != 404:
                raise

    async def _fill(self, fault: Fault) -> None:
        """The agent's next container finds its log on a disk of 4 KiB that is full."""
        pod = await self._api.ask("GET", f"/api/v1/namespaces/kube-system/pods/{AGENT_NAME}-{fault.node}")
        meta = pod["metadata"]
        folder = f"/var/log/pods/kube-system_{meta['name']}_{meta['uid']}/agent"
        self._full.add(fault.node)
        fill = f"mount -t tmpfs -o size=4k chaos {folder} && head -c 4096 /dev/zero > {folder}/full"
        await run(enter(self._world.paths, ("sh", "-euc", fill)))
        self._world.signal(self._world.agent(fault.node), signal.SIGKILL)
        await asyncio.sleep(fault.seconds)
        await self._empty(fault.node)

    async def _empty(self, node: int) -> None:
        folders = f"/var/log/pods/kube-system_{AGENT_NAME}-{node}_*/agent"
        script = f"for each in {folders}; do umount -l $each 2>/dev/null || true; done"
        await run(enter(self._world.paths, ("sh", "-uc", script)))
        self._full.discard(node)

    _own: ClassVar[dict[str, Callable[["Injector", Fault], Awaitable[None]]]] = {
        "agent-kill": _kill_agent,
        "agents-kill-all": _kill_agents,
        "agent-clock-jump": _turn_clock,
        "agent-stop": _stop_agent,
        "controller-kill": _kill_controllers,
        "controller-stop": _stop_controllers,
        "emulator-kill": _kill_emulator,
        "emulator-stop": _stop_emulator,
        "apiserver-kill": _kill_apiserver,
        "apiserver-stop": _stop_apiserver,
        "etcd-kill": _kill_etcd,
        "watch-cut": _cut,
        "half-open": _half_open,
        "spot-interruption": _interrupt,
        "stray-group": _stray,
        "node-delete": _delete_node,
        "agents-scale": _scale,
        "twin-agent": _twin,
        "pod-recreated": _recreate,
        "log-disk-full": _fill,
    }
