"""The virtual nodes of a local cluster: a StatefulSet on the worker, or plain processes without one.

In: a plan, `deploy/` of the checkout. Out: agents, each of which registers its node; on the worker the controller,
too, which every overlay has. The manifests are the ones that a user applies; the local overlay sets image and
replicas only, since the machine has Podman's socket and the pods' folder where `deploy/podman` expects them.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from overspill import names
from overspill.errors import NotFound
from overspill.local.cloud import cloud_facts
from overspill.local.controlplane import get
from overspill.local.emulator import EmulatorFacts, emulator_facts
from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths, repository, write_file
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.render import render
from overspill.local.talk import say

__all__ = [
    "AGENT_NAME",
    "CONTROLLER_NAME",
    "STATEFUL_SET",
    "backend_options",
    "environment",
    "node_names",
    "start_agent_pods",
    "start_agents",
    "start_approver",
]

AGENT_NAME = "virtual-node-eci"
CONTROLLER_NAME = "overspill-controller"
STATEFUL_SET = f"/apis/apps/v1/namespaces/kube-system/statefulsets/{AGENT_NAME}"
READY_TIMEOUT = 90.0
DRAIN_GRACE = 60.0
# The folder of `deploy/` for each backend that has one of its own, agents and controller.
BASES = {"podman": "podman", "eci": "eci"}


class _Spec(Struct, frozen=True):
    replicas: int = 1


class _StatefulSet(Struct, frozen=True):
    spec: _Spec


def node_names(count: int) -> list[str]:
    """The names of the first virtual nodes."""
    return [f"{AGENT_NAME}-{index}" for index in range(count)]


def start_approver(paths: Paths) -> None:
    """Have somebody approve the certificates that virtual nodes serve with."""
    config = paths.pki / "approver.kubeconfig"
    argv = (sys.executable, "-m", "overspill.cli.main", "approve", f"--kubeconfig={config}")
    Processes(paths).ensure(Program(name="approver", argv=argv))


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
    write_file(
        folder / "kustomization.yaml", _overlay(paths, plan, folder, count=count, image=image), mode=0o600
    )
    await kubectl(paths, "apply", "-k", str(folder))
    return count


def _overlay(paths: Paths, plan: Plan, folder: Path, *, count: int, image: str) -> str:
    deploy = repository() / "deploy"
    bases = (
        [deploy / BASES[plan.backend]] if plan.backend in BASES else [deploy / "base", deploy / "placement"]
    )
    name, _, tag = image.rpartition(":")
    content: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # Kustomize takes no absolute path.
        "resources": [os.path.relpath(base, folder) for base in bases],
        "images": [{"name": "overspill", "newName": name, "newTag": tag}],
        "replicas": [{"name": AGENT_NAME, "count": count}],
    }
    if plan.backend == "eci":
        content |= _eci_overlay(paths, plan, folder)
    if plan.injection == "webhook":
        content["components"] = [os.path.relpath(deploy / "webhook", folder)]
    return yaml.safe_dump(content, sort_keys=False)


def _eci_overlay(paths: Paths, plan: Plan, folder: Path) -> dict[str, Any]:
    """What `deploy/eci` leaves to its user: where the API is, whom to trust, and the access key."""
    facts = _started_emulator(paths, plan)
    settings = {
        "backend": "eci",
        "backendOptions": _eci_options(facts),
        "healthAddress": "0.0.0.0:10256",
        "logFormat": "json",
    }
    write_file(folder / "agent.yaml", yaml.safe_dump(settings, sort_keys=False))
    for kind, name, container in (
        ("StatefulSet", AGENT_NAME, "agent"),
        ("Deployment", CONTROLLER_NAME, "controller"),
    ):
        trust = render("eci-trust.yaml", kind=kind, name=name, container=container)
        write_file(folder / f"{container}-trust.yaml", trust)
    literals = [
        f"ALIBABA_CLOUD_ACCESS_KEY_ID={facts.access_key_id}",
        f"ALIBABA_CLOUD_ACCESS_KEY_SECRET={facts.access_key_secret}",
    ]
    generated = {"namespace": "kube-system", "behavior": "replace"}
    return {
        "configMapGenerator": [
            {"name": f"{AGENT_NAME}-settings", "files": ["agent.yaml"], **generated},
            {"name": f"{CONTROLLER_NAME}-settings", "files": ["controller.yaml=agent.yaml"], **generated},
        ],
        "secretGenerator": [{"name": "overspill-eci", "literals": literals, **generated}],
        "patches": [{"path": "agent-trust.yaml"}, {"path": "controller-trust.yaml"}],
    }


def _started_emulator(paths: Paths, plan: Plan) -> EmulatorFacts:
    facts = emulator_facts(paths, plan)
    if facts is None:
        raise NotFound(
            f"cluster {plan.name!r} has no emulator yet; `overspill up --name {plan.name}` goes on with it"
        )
    return facts


def _eci_options(facts: EmulatorFacts) -> dict[str, str]:
    return {
        "region": facts.region,
        "endpoint": facts.endpoint,
        "vpcEndpoint": facts.endpoint,
        "vSwitchIds": ",".join(facts.v_switch_ids),
        "securityGroupIds": facts.security_group_id,
    }


def environment(paths: Paths, plan: Plan) -> dict[str, str]:
    """What agents and the controller outside the cluster find in their environment: a file with the access key, and whom to trust."""
    if plan.backend != "eci":
        return {}
    facts = _started_emulator(paths, plan)
    credentials = paths.pki / "eci-credentials"
    text = (
        "[default]\ntype = access_key\n"
        f"access_key_id = {facts.access_key_id}\naccess_key_secret = {facts.access_key_secret}\n"
    )
    write_file(credentials, text, mode=0o600)
    return {
        "ALIBABA_CLOUD_CREDENTIALS_FILE": str(credentials),
        "SSL_CERT_FILE": facts.certificate_authority,
    }


async def start_agents(paths: Paths, plan: Plan) -> int:
    """Have the agents running as processes of this machine; returns how many there are."""
    deploy = repository() / "deploy"
    await kubectl(paths, "apply", "-f", str(deploy / "base" / "rbac.yaml"))
    if plan.backend == "eci":
        await kubectl(paths, "apply", "-f", str(deploy / "eci" / "rbac.yaml"))
    if plan.injection == "policy":
        await kubectl(paths, "apply", "-k", str(deploy / "injection"))
    await kubectl(paths, "apply", "-k", str(deploy / "protection"))
    processes = Processes(paths)
    wanted = node_names(plan.virtual_nodes)
    for process in processes.all():
        if re.fullmatch(rf"{AGENT_NAME}-\d+", process.name) and process.name not in wanted:
            # Without a StatefulSet only the mark tells an agent that its node is to go, and its pods with it.
            selector = f"--selector={names.HOSTNAME_LABEL}={process.name}"
            await kubectl(
                paths, "label", "nodes", selector, "--overwrite", f"{names.DECOMMISSION_LABEL}=true"
            )
            if not processes.stop(process.name, grace=DRAIN_GRACE):
                say(
                    f"{process.name} was not empty after {DRAIN_GRACE:.0f} s; the controller goes on:"
                    f" `overspill status` tells how far it is"
                )
    for name in await _taken_back(paths, wanted):
        # An agent that empties its node would give it back and end; the next one gives it back and stays.
        processes.stop(name)
    for name in wanted:
        argv = agent_argv(paths, plan, name)
        processes.ensure(Program(name=name, argv=argv, env=environment(paths, plan)))
    return plan.virtual_nodes


async def _taken_back(paths: Paths, wanted: Sequence[str]) -> list[str]:
    """Those of these nodes that an earlier `up` has marked as to go; the mark is off."""
    if not wanted:
        return []
    label = names.DECOMMISSION_LABEL
    selector = f"--selector={label},{names.HOSTNAME_LABEL} in ({','.join(wanted)})"
    found = await kubectl(paths, "label", "nodes", selector, f"{label}-", "--output=name")
    return [node.removeprefix("node/") for node in found.decode().split()]


def agent_argv(paths: Paths, plan: Plan, node: str) -> tuple[str, ...]:
    """The command line of one agent outside the cluster."""
    flags = {
        "node-name": node,
        "node-ip": plan.host_address,
        "kubeconfig": paths.pki / "agent.kubeconfig",
        "backend": plan.backend,
        "health-address": "127.0.0.1:0",
        "kubelet-address": f"{plan.host_address}:0",
    }
    return (
        *(sys.executable, "-m", "overspill.cli.main", "agent"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *(f"--backend-option={each}" for each in backend_options(paths, plan)),
    )


def backend_options(paths: Paths, plan: Plan) -> list[str]:
    """The backend's options as `key=value`, for agents and the controller outside the cluster."""
    options: dict[str, str] = {}
    if plan.backend == "podman":
        options = msgspec.structs.asdict(cloud_facts(paths))
    elif plan.backend == "eci":
        options = _eci_options(_started_emulator(paths, plan))
    return [f"{key}={value}" for key, value in options.items()]
