"""The virtual nodes of a local cluster: a StatefulSet on the worker, or plain processes without one.

In: a plan, `deploy/` of the checkout. Out: agents, each of which registers its node. The manifests are the
ones that a user applies; the local overlay sets image and replicas only, since the machine has Podman's
socket and the pods' folder where `deploy/podman` expects them.
"""

import os
import re
import sys
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

from overspill.local.cloud import cloud_facts
from overspill.local.controlplane import get
from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths, repository, write_file
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program

__all__ = ["AGENT_NAME", "node_names", "start_agent_pods", "start_agents"]

AGENT_NAME = "virtual-node-eci"
STATEFUL_SET = f"/apis/apps/v1/namespaces/kube-system/statefulsets/{AGENT_NAME}"
READY_TIMEOUT = 90.0


class _Spec(Struct, frozen=True):
    replicas: int = 1


class _StatefulSet(Struct, frozen=True):
    spec: _Spec


def node_names(count: int) -> list[str]:
    """The names of the first virtual nodes."""
    return [f"{AGENT_NAME}-{index}" for index in range(count)]


async def start_agent_pods(paths: Paths, plan: Plan, *, image: str, scale: bool) -> int:
    """Apply the manifests; returns how many virtual nodes there will be.

    A StatefulSet that somebody has scaled keeps its replicas, unless `scale` asks for the plan's number.
    """
    found = await get(paths, plan, STATEFUL_SET)
    count = plan.virtual_nodes
    if found is not None and not scale:
        count = msgspec.json.decode(found, type=_StatefulSet).spec.replicas
    if count == 0:
        if found is not None:
            await kubectl(paths, "-n", "kube-system", "scale", "statefulset", AGENT_NAME, "--replicas=0")
        return 0
    folder = paths.config / "deploy"
    write_file(folder / "kustomization.yaml", _overlay(plan, folder, count=count, image=image))
    await kubectl(paths, "apply", "-k", str(folder))
    return count


def _overlay(plan: Plan, folder: Path, *, count: int, image: str) -> str:
    base = repository() / "deploy" / ("podman" if plan.backend == "podman" else "base")
    name, _, tag = image.rpartition(":")
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # Kustomize takes no absolute path.
        "resources": [os.path.relpath(base, folder)],
        "images": [{"name": "overspill", "newName": name, "newTag": tag}],
        "replicas": [{"name": AGENT_NAME, "count": count}],
    }
    return yaml.safe_dump(content, sort_keys=False)


async def start_agents(paths: Paths, plan: Plan) -> int:
    """Have the agents running as processes of this machine; returns how many there are."""
    deploy = repository() / "deploy"
    await kubectl(paths, "apply", "-f", str(deploy / "base" / "rbac.yaml"))
    await kubectl(paths, "apply", "-k", str(deploy / "injection"))
    processes = Processes(paths)
    wanted = node_names(plan.virtual_nodes)
    for process in processes.all():
        if re.fullmatch(rf"{AGENT_NAME}-\d+", process.name) and process.name not in wanted:
            processes.stop(process.name, grace=10.0)
    for name in wanted:
        processes.ensure(Program(name=name, argv=agent_argv(paths, plan, name)))
    return plan.virtual_nodes


def agent_argv(paths: Paths, plan: Plan, node: str) -> tuple[str, ...]:
    """The command line of one agent outside the cluster."""
    flags = {
        "node-name": node,
        "node-ip": plan.host_address,
        "kubeconfig": paths.pki / "agent.kubeconfig",
        "backend": plan.backend,
        "health-address": "127.0.0.1:0",
    }
    options = msgspec.structs.asdict(cloud_facts(paths)) if plan.backend == "podman" else {}
    return (
        *(sys.executable, "-m", "overspill.cli.main", "agent"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *(f"--backend-option={key}={value}" for key, value in options.items()),
    )
