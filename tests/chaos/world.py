"""The cluster that faults act on: a local one whose ECI emulator simulates its container groups.

In: the name of a cluster that is up. Out: ways to its processes, its bill and its agents. Agents and controllers
are pods of the real kubelet, and reach the apiserver by way of the proxy.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import yaml

from chaos.api import Api
from chaos.history import Billed
from overspill.backends.eci.answers import Created
from overspill.backends.eci.client import Client
from overspill.backends.eci.credentials import find_credentials
from overspill.backends.eci.rates import Rates
from overspill.backends.eci.tags import identity_of
from overspill.backends.eci.translate import Placement, parameters
from overspill.emulator.run import DATABASE, read_endpoint
from overspill.emulator.store import read_bill
from overspill.local.cgroups import pids_in_cgroup
from overspill.local.commands import run, until
from overspill.local.emulator import EmulatorFacts, emulator_facts
from overspill.local.kubectl import kubectl
from overspill.local.machine import enter
from overspill.local.nodes import wait_for_nodes
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan
from overspill.local.processes import Process, Processes, Program, end
from overspill.local.virtualnodes import AGENT_NAME, STATEFUL_SET, agent_argv, node_names
from overspill.model.work import Container, Identity, WorkSpec

# Whose sitecustomize turns a process' clock, and where an agent's container finds it and its file.
CLOCK_FOLDER = Path(__file__).parent / "clock"
CLOCKS = "/var/lib/chaos"
OVERSPILL = str(Path(sys.executable).parent / "overspill")
MOST_NODES = 6
EMULATOR = "eci-emulator"
CONTROLLER = "overspill-controller"
SIMULATED = (
    "--engine=simulated",
    "--networks=none",
    "--spot-notice-seconds=8",
    "--engine-option=start_seconds=uniform(0.2, 2)",
    "--engine-option=stop_seconds=0.5",
    "--engine-option=log_seconds=0",
)
PAGE = os.sysconf("SC_PAGE_SIZE")
# For how many seconds the emulator may be stopped, and what asks it: a hundredth of what `overspill emulator` costs.
MOST_STILL = 60
ASK = f"""
from sys import argv
from urllib.request import Request, urlopen
print(urlopen(Request(argv[1], method=argv[2], data=argv[3].encode() or None), timeout={MOST_STILL}).read().decode())
"""


def set_clock(file: Path, *, ahead: float) -> None:
    """Put the clocks that go by this file so many seconds ahead."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(f"{ahead:16.3f}".encode())


class World:
    """One cluster."""

    def __init__(self, name: str, *, nodes: int) -> None:
        self.name, self.nodes = name, nodes
        self.paths, self.plan = cluster_paths(name), load_plan(name)
        self.processes = Processes(self.paths)

    async def prepare(self, api: Api, proxy_port: int) -> None:
        """Simulate container groups, restart killed agents soon, and put the proxy between."""
        self._simulate()
        self._restart_soon()
        through = (
            f"KUBERNETES_SERVICE_HOST={self.plan.host_address}",
            f"KUBERNETES_SERVICE_PORT={proxy_port}",
        )
        soon = ("OVERSPILL_ORPHAN_QUIET_SECONDS=20", "OVERSPILL_ORPHAN_PERIOD_SECONDS=10")
        await kubectl(self.paths, "-n", "kube-system", "set", "env", f"deployment/{CONTROLLER}", *soon)
        await self._give_clocks()
        for target in (f"statefulset/{AGENT_NAME}", f"deployment/{CONTROLLER}"):
            await kubectl(self.paths, "-n", "kube-system", "set", "env", target, *through)
            await kubectl(self.paths, "-n", "kube-system", "rollout", "status", target, timeout=300)
        await self.scale(api, self.nodes)
        await wait_for_nodes(self.paths, self.plan, set(node_names(self.nodes)))

    async def scale(self, api: Api, agents: int) -> None:
        """What `kubectl scale` of the virtual nodes does, once the apiserver is there."""
        await api.merge(f"{STATEFUL_SET}/scale", {"spec": {"replicas": agents}})

    async def _give_clocks(self) -> None:
        """Have the agents' containers go by clocks that can be turned, each by its own."""
        folder = self.paths.machine / "lib" / Path(CLOCKS).name
        shutil.copytree(CLOCK_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for node in range(MOST_NODES):
            self.turn_clock(node, ahead=0.0)
        container = {
            "name": "agent",
            "env": [
                {"name": "PYTHONPATH", "value": CLOCKS},
                {"name": "CLOCK", "value": f"{CLOCKS}/$HOSTNAME"},
            ],
            "volumeMounts": [{"name": "clocks", "mountPath": CLOCKS, "readOnly": True}],
        }
        volume = {"name": "clocks", "hostPath": {"path": CLOCKS}}
        spec = {"template": {"spec": {"containers": [container], "volumes": [volume]}}}
        target = ("-n", "kube-system", "patch", f"statefulset/{AGENT_NAME}")
        await kubectl(self.paths, *target, "-p", json.dumps({"spec": spec}))

    def turn_clock(self, node: int, *, ahead: float) -> None:
        """The clock of one agent, also of those to come."""
        folder = self.paths.machine / "lib" / Path(CLOCKS).name
        set_clock(folder / f"{AGENT_NAME}-{node}", ahead=ahead)

    def _simulate(self) -> None:
        known = self.process(EMULATOR)
        argv = [word for word in known.argv if not word.startswith(("--engine", "--networks"))]
        self.processes.ensure(Program(name=EMULATOR, argv=(*argv, *SIMULATED), env=known.env))

    def _restart_soon(self) -> None:
        """Else the kubelet would wait for up to five minutes with an agent that is killed again and again."""
        file = self.paths.config / "kubelet.yaml"
        config = yaml.safe_load(file.read_text())
        config["crashLoopBackOff"] = {"maxContainerRestartPeriod": "5s"}
        file.write_text(yaml.safe_dump(config))
        self.kill("kubelet")
        self.start("kubelet")

    # --- processes of the host ---

    def process(self, name: str) -> Process:
        """A process of the local cluster, as it was started."""
        found = self.processes.find(name)
        assert found is not None, name
        return found

    def kill(self, name: str) -> None:
        """`kill -9`."""
        end([self.process(name).pid])

    def start(self, name: str) -> None:
        """Start it as before, unless it runs."""
        known = self.process(name)
        self.processes.ensure(Program(name=name, argv=known.argv, env=known.env))

    def supervise(self) -> None:
        """Start what ends by itself, as a kubelet would: a scheduler that no more believes its cache, for one."""
        for name in ("kube-scheduler", "kube-controller-manager"):
            self.start(name)

    def signal(self, pids: set[int], number: int) -> None:
        """Send a signal to those that still live."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- processes in pods ---

    def pods(self) -> dict[str, set[int]]:
        """Processes of the worker's pods, by the name of the pod."""
        found: dict[str, set[int]] = {}
        for pid in pids_in_cgroup(self.plan.cgroup):
            with contextlib.suppress(OSError):
                for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    if word.startswith(b"HOSTNAME="):
                        found.setdefault(word[9:].decode(), set()).add(pid)
        return found

    def agent(self, node: int) -> set[int]:
        """Processes of one agent."""
        return self.pods().get(f"{AGENT_NAME}-{node}", set())

    def controllers(self) -> set[int]:
        """Processes of all controllers."""
        return {pid for name, pids in self.pods().items() if name.startswith(CONTROLLER) for pid in pids}

    def megabytes(self) -> list[tuple[str, int, float]]:
        """Name, pid and resident memory of each agent."""
        found = []
        for name, pids in self.pods().items():
            for pid in pids if name.startswith(AGENT_NAME) else ():
                with contextlib.suppress(OSError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    found.append((name, pid, pages * PAGE / 1e6))
        return found

    def hold_logs(self) -> None:
        """Have a second name for each container's log: the kubelet removes those of pods that are gone."""
        held = self._held_logs()
        held.mkdir(exist_ok=True)
        for folder, _, files in os.walk(
            self.paths.machine / "log" / "pods"
        ):  # passes over what goes meanwhile
            pod, container = Path(folder).parts[-2:]
            for name in files if pod.startswith("kube-system_") else ():
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    (held / f"{pod}_{container}_{name}").hardlink_to(Path(folder) / name)

    def _held_logs(self) -> Path:
        return self.paths.machine / "log" / "held"

    def keep_logs(self) -> Path:
        """Copy the logs of agents, controllers and the cluster's processes; returns where to."""
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        for each in (self.paths.logs, self._held_logs()):
            shutil.copytree(each, folder / each.name, symlinks=True)
        return folder

    # --- the cloud ---

    def bill(self) -> list[Billed]:
        """Every container group that ever cost money, also while the emulator is down."""
        found = []
        for line in read_bill(self.paths.emulator / DATABASE):
            whose = identity_of(line.tags)
            uid, pod = (whose.uid, f"{whose.namespace}/{whose.name}") if whose else ("", line.name)
            found.append(Billed(line.group, uid, pod, line.began, line.ended))
        return found

    async def emulator(self, method: str, path: str, body: str = "") -> str:
        """Ask the emulator's admin port, on the loopback of the cluster's own network; it may stand still meanwhile."""
        url = read_endpoint(self.paths.emulator).admin + path
        ask = enter(self.paths, (sys.executable, "-ISc", ASK, url, method, body))
        return (await run(ask, timeout=MOST_STILL + 30)).decode()

    async def emulator_answers(self) -> None:
        """Wait until it does."""

        async def answers() -> bool:
            self.start(EMULATOR)
            with contextlib.suppress(Exception):
                return bool(await self.emulator("GET", "/status"))
            return False

        await until(answers, what="the emulator to answer", timeout=90)

    async def stray(self, cluster: str) -> None:
        """A container group of this cluster, whose pod and node never were."""
        facts, key = self._account()
        who = Identity(cluster, f"{AGENT_NAME}-99", "chaos", "stray", str(uuid.uuid4()))
        work = WorkSpec(identity=who, hostname="stray", containers=(Container("main", "busybox:1"),))
        where = Placement(region=facts.region, v_switch_ids=facts.v_switch_ids)
        os.environ["SSL_CERT_FILE"] = key["SSL_CERT_FILE"]
        credentials = find_credentials(key, region=facts.region)
        async with Client(
            endpoint=facts.endpoint, region=facts.region, credentials=credentials, rates=Rates()
        ) as client:
            request = {**parameters(work, where), "ClientToken": who.uid}
            await client.call("CreateContainerGroup", request, Created)

    def _account(self) -> tuple[EmulatorFacts, dict[str, str]]:
        facts = emulator_facts(self.paths, self.plan)
        assert facts is not None
        return facts, {
            "ALIBABA_CLOUD_ACCESS_KEY_ID": facts.access_key_id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": facts.access_key_secret,
            "SSL_CERT_FILE": facts.certificate_authority,
        }

    async def twin(self, node: int) -> asyncio.subprocess.Process:
        """Another agent for a node, outside the cluster; its log goes to a disk that is always full."""
        _, key = self._account()
        argv = agent_argv(self.paths, self.plan, f"{AGENT_NAME}-{node}")
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            return await asyncio.create_subprocess_exec(
                *argv, stdout=full, stderr=full, env={**os.environ, **key}
            )
        finally:
            os.close(full)
