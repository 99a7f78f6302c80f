"""A cluster as a whole: up, down, status.

In: `Options` or a name. Out: a running cluster, nothing at all, or a `Status`. Invariants: `up` may be
repeated and repairs what died; `down` clears whatever an `up` left, however it ended.
"""

import asyncio
import shutil
import time
from pathlib import Path

from msgspec import Struct

from overspill.errors import Misconfigured, NotFound
from overspill.local import cloud, controlplane, images, network, worker
from overspill.local.agentimage import agent_archive
from overspill.local.builds import Programs, build_all
from overspill.local.certificates import WORKER, ensure_certificates
from overspill.local.cgroups import container_cgroups, pids_in_cgroup, remove_cgroup
from overspill.local.commands import all_of
from overspill.local.emulator import EmulatorFacts, emulator_facts, start_emulator
from overspill.local.images import BASE_IMAGES, PAUSE, base_archive
from overspill.local.kubectl import kubectl, kubectl_path
from overspill.local.machine import ensure_machine, members, remove_machine
from overspill.local.metricsserver import start_metrics_server
from overspill.local.needs import check_needs
from overspill.local.nodes import NodeStatus, nodes, wait_for_nodes
from overspill.local.paths import Paths, cluster_paths, repository
from overspill.local.placement import start_controller, wait_trusted
from overspill.local.plan import Options, Plan, load_plan, lock, make_plan, no_cloud
from overspill.local.processes import Processes, end, marked, started_at, with_descendants
from overspill.local.render import render
from overspill.local.talk import say
from overspill.local.virtualnodes import node_names, start_agent_pods, start_agents, start_approver

__all__ = ["ProcessStatus", "Status", "down", "kubectl_path", "load_image", "status", "up"]


class ProcessStatus(Struct, frozen=True, rename="camel"):
    """One process of the cluster."""

    name: str
    pid: int
    alive: bool
    log: str


class Status(Struct, frozen=True, rename="camel", kw_only=True):
    """What `overspill status -o json` prints."""

    name: str
    ready: bool
    endpoint: str
    kubeconfig: str
    state_folder: str
    workers: int
    virtual_nodes: int
    backend: str
    tuned: bool
    nodes: list[NodeStatus]
    cloud: cloud.Cloud | None
    emulator: EmulatorFacts | None
    processes: list[ProcessStatus]


async def up(options: Options) -> Plan:
    """Have the cluster running, Ready.

    Raises:
        OverspillError: what is missing, wrong or did not come up, with the next step.
    """
    began = time.monotonic()
    with lock(options.name) as paths:
        plan = make_plan(options, check_needs)
        if plan.backend == "simulated" and not (options.backend or plan.tuned) and (why := no_cloud()):
            say(f"{why}: the virtual nodes of {plan.name} only simulate their pods")
        built = await build_all()
        await _Start(paths, plan, built, scale=options.virtual_nodes is not None).run()
    say(f"cluster {plan.name} is ready after {time.monotonic() - began:.1f} s")
    return plan


class _Start:
    """The order in which the parts of one cluster start: as much as can be at the same time."""

    def __init__(self, paths: Paths, plan: Plan, built: Programs, *, scale: bool) -> None:
        self._paths, self._plan, self._built, self._scale = paths, plan, built, scale
        self._apiserver_ready = asyncio.Event()
        self._agent_image = ""

    async def run(self) -> None:
        paths, plan = self._paths, self._plan
        if ensure_certificates(paths, plan):
            for name in controlplane.NAMES:
                Processes(paths).stop(name)
        if plan.machine:
            await ensure_machine(paths, plan)
        parts = [self._control_plane()]
        if plan.workers:
            parts.append(self._worker())
        if plan.cloud:
            parts.append(self._cloud())
        if plan.metrics:
            parts.append(self._metrics())
        await all_of(*parts)
        await self._virtual_nodes()

    async def _control_plane(self) -> None:
        paths, plan, built = self._paths, self._plan, self._built
        await controlplane.start(paths, plan, built)
        self._apiserver_ready.set()
        await kubectl(paths, "apply", "-f", "-", stdin=_system_manifest(plan))
        if plan.machine:
            network.start_proxy(paths, built, node=WORKER if plan.workers else node_names(1)[0])
            await network.start_dns(paths, plan, built)
        await controlplane.wait_usable(paths, plan)

    async def _worker(self) -> None:
        paths, plan, built = self._paths, self._plan, self._built
        await worker.start_containerd(paths, plan, built, pause_image=PAUSE)
        await self._ensure_worker_images(BASE_IMAGES, base_archive(built))
        await self._apiserver_ready.wait()
        worker.start_kubelet(paths, plan, built)
        if plan.virtual_nodes:
            self._agent_image, archive = await agent_archive()
            await self._ensure_worker_images({self._agent_image}, archive)
        await wait_for_nodes(paths, plan, {WORKER})

    async def _ensure_worker_images(self, names: set[str], archive: Path) -> None:
        if not await worker.has_images(self._paths, self._built, names):
            await worker.import_images(self._paths, self._built, archive)

    async def _cloud(self) -> None:
        await cloud.start_cloud(self._paths, self._plan)
        if not all([await cloud.has_image(self._paths, name) for name in BASE_IMAGES]):
            await cloud.load_images(self._paths, base_archive(self._built))
        if self._plan.backend == "eci":
            await start_emulator(self._paths, self._plan)

    async def _metrics(self) -> None:
        await self._apiserver_ready.wait()
        await start_metrics_server(self._paths, self._plan, self._built)

    async def _virtual_nodes(self) -> None:
        paths, plan = self._paths, self._plan
        if not plan.virtual_nodes and not self._scale:
            return
        start_approver(paths)
        if plan.workers:
            count = await start_agent_pods(paths, plan, image=self._agent_image, scale=self._scale)
        else:
            count = await start_agents(paths, plan)
        if plan.placement and not plan.workers:
            await start_controller(paths, plan)
        if plan.placement and plan.injection == "webhook":
            await wait_trusted(paths, plan)
        await wait_for_nodes(paths, plan, set(node_names(count)))


def _system_manifest(plan: Plan) -> bytes:
    values = {
        "dns_address": plan.dns_address,
        "host_address": plan.host_address,
        "dns_port": plan.ports["dns"],
    }
    approver = (repository() / "deploy" / "approver" / "rbac.yaml").read_bytes()
    return render("system.yaml", machine=plan.machine, **values).encode() + b"---\n" + approver


async def down(name: str) -> bool:
    """Leave nothing of the cluster; returns whether there was something."""
    if not cluster_paths(name).root.exists():
        return False
    with lock(name) as paths:
        plan = _known_plan(name)
        machine = plan is None or plan.machine
        if machine:
            await cloud.remove_containers(paths)
        cgroups = _end_processes(paths, plan)
        if machine:
            await remove_machine(paths, plan)
            for cgroup in cgroups | ({plan.cgroup} if plan else set()):
                remove_cgroup(cgroup)
        shutil.rmtree(paths.root)
    return True


def _known_plan(name: str) -> Plan | None:
    """The plan; None if `up` ended before it wrote one, or it is none any more: then the folder tells what there is."""
    try:
        return load_plan(name)
    except NotFound:
        return None
    except Misconfigured as error:
        if isinstance(error.__cause__, OSError):
            raise
        what = f"a table overspill-{name}-… of nftables and a cgroup of such a name"
        say(f"{cluster_paths(name).plan} holds no plan any more: {what} may stay")
        return None


def _end_processes(paths: Paths, plan: Plan | None) -> set[str]:
    """End everything, also what is started while we look; returns the cgroups of containers among it."""
    cgroups: set[str] = set()
    while True:
        recorded = {process.pid for process in Processes(paths).all() if process.alive}
        found = with_descendants(recorded | marked(paths.root) | members(paths))
        if plan is not None and plan.workers:
            found |= pids_in_cgroup(plan.cgroup)
        living = {pid for pid in found if started_at(pid) is not None}
        if not living:
            return cgroups
        cgroups |= container_cgroups(living)
        end(living)


async def status(name: str) -> Status:
    """What there is of a cluster.

    Raises:
        NotFound: there is no such cluster.
    """
    plan = load_plan(name)
    paths = cluster_paths(name)
    processes = Processes(paths)
    known = [
        ProcessStatus(process.name, process.pid, process.alive, str(processes.log(process.name)))
        for process in processes.all()
    ]
    known_nodes = await nodes(paths, plan)
    return Status(
        name=plan.name,
        ready=known_nodes is not None and all(process.alive for process in known),
        endpoint=plan.endpoint,
        kubeconfig=str(paths.kubeconfig),
        state_folder=str(paths.root),
        workers=plan.workers,
        virtual_nodes=plan.virtual_nodes,
        backend=plan.backend,
        tuned=plan.tuned,
        nodes=known_nodes or [],
        cloud=cloud.cloud_facts(paths) if plan.cloud else None,
        emulator=emulator_facts(paths, plan) if plan.backend == "eci" else None,
        processes=known,
    )


async def load_image(name: str, image: str) -> None:
    """Copy an image from the user's Podman into a cluster.

    Raises:
        NotFound: there is no such cluster or image.
    """
    plan = load_plan(name)
    await images.load_image(cluster_paths(name), plan, await build_all(), image)
