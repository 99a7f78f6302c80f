"""A cluster as a whole: up, down, status.

In: `Options` or a name. Out: a running cluster, nothing at all, or a `Status`. Invariants: `up` may be
repeated and repairs what died; `down` clears whatever an `up` left, however it ended.
"""

import os
import shutil
import time

import msgspec
from msgspec import Struct

from overspill.errors import NotFound
from overspill.local import controlplane
from overspill.local.builds import Programs, build_all
from overspill.local.certificates import ensure_certificates
from overspill.local.commands import all_of
from overspill.local.paths import Paths, cluster_paths
from overspill.local.plan import Options, Plan, load_plan, lock, make_plan
from overspill.local.processes import Processes, end, marked, with_descendants
from overspill.local.talk import say

__all__ = ["NodeStatus", "ProcessStatus", "Status", "down", "kubectl_path", "status", "up"]


class ProcessStatus(Struct, frozen=True, rename="camel"):
    """One process of the cluster."""

    name: str
    pid: int
    alive: bool
    log: str


class NodeStatus(Struct, frozen=True, rename="camel"):
    """One node as the apiserver knows it."""

    name: str
    ready: bool


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
    processes: list[ProcessStatus]


async def up(options: Options) -> Plan:
    """Have the cluster running, Ready.

    Raises:
        OverspillError: what is missing, wrong or did not come up, with the next step.
    """
    began = time.monotonic()
    with lock(options.name) as paths:
        plan = make_plan(options)
        built = await build_all()
        await _start(paths, plan, built)
    say(f"cluster {plan.name} is ready after {time.monotonic() - began:.1f} s")
    return plan


async def _start(paths: Paths, plan: Plan, built: Programs) -> None:
    if ensure_certificates(paths, plan):
        for name in controlplane.APISERVER_NAMES:
            Processes(paths).stop(name)
    await all_of(controlplane.start(paths, plan, built))


async def down(name: str) -> bool:
    """Leave nothing of the cluster; returns whether there was something."""
    if not cluster_paths(name).root.exists():
        return False
    with lock(name) as paths:
        _end_processes(paths)
        shutil.rmtree(paths.root)
    return True


def _end_processes(paths: Paths) -> None:
    recorded = {process.pid for process in Processes(paths).all() if process.alive}
    end(with_descendants(recorded | marked(paths.root)))


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
    nodes = await _nodes(paths, plan)
    return Status(
        name=plan.name,
        ready=nodes is not None and all(process.alive for process in known),
        endpoint=plan.endpoint,
        kubeconfig=str(paths.kubeconfig),
        state_folder=str(paths.root),
        workers=plan.workers,
        virtual_nodes=plan.virtual_nodes,
        backend=plan.backend,
        tuned=plan.tuned,
        nodes=nodes or [],
        processes=known,
    )


class _Condition(Struct, frozen=True):
    type: str
    status: str


class _NodeConditions(Struct, frozen=True):
    conditions: list[_Condition] = []


class _Name(Struct, frozen=True):
    name: str


class _Node(Struct):
    metadata: _Name
    status: _NodeConditions = _NodeConditions()


class _NodeList(Struct):
    items: list[_Node]


async def _nodes(paths: Paths, plan: Plan) -> list[NodeStatus] | None:
    """Nodes, or None when the apiserver does not answer."""
    answer = await controlplane.get(paths, plan, "/api/v1/nodes")
    if answer is None:
        return None
    return [
        NodeStatus(
            node.metadata.name,
            any(
                condition.type == "Ready" and condition.status == "True"
                for condition in node.status.conditions
            ),
        )
        for node in msgspec.json.decode(answer, type=_NodeList).items
    ]


def kubectl_path(name: str) -> tuple[str, dict[str, str]]:
    """The kubectl of a cluster and the environment to run it in.

    Raises:
        NotFound: there is no such cluster, or it never came as far as having a kubeconfig.
    """
    load_plan(name)
    paths = cluster_paths(name)
    process = Processes(paths).find("kube-apiserver")
    if process is None:
        raise NotFound(f"cluster {name!r} has no apiserver yet; `overspill up --name {name}` goes on with it")
    kubectl = os.path.join(os.path.dirname(process.argv[0]), "kubectl")  # noqa: PTH118, PTH120 - plain text
    return kubectl, {"KUBECONFIG": str(paths.kubeconfig)}
