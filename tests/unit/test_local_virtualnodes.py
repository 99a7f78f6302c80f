"""Agents that are processes of this machine: which node is given up, and which is taken back."""

import sys

import pytest

from overspill.local.paths import cluster_paths
from overspill.local.plan import Options, make_plan
from overspill.local.processes import Processes, Program, end, marked, with_descendants
from overspill.local.virtualnodes import agent_argv, start_agents

NODES = ["virtual-node-eci-0", "virtual-node-eci-1"]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = cluster_paths("a")
    yield made
    end(with_descendants(marked(made.root)))


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_marked_node_that_is_wanted_again_loses_its_mark_and_gets_a_new_agent(
    paths, tmp_path, monkeypatch
):
    plan = make_plan(Options(name="a", virtual_nodes=2, workers=0, backend="simulated"))
    processes = Processes(paths)
    said = tmp_path / "kubectl.log"
    program(tmp_path / "kubectl", f'echo "$*" >> {said}; [ "$1" != label ] || echo node/{NODES[1]}')
    apiserver = program(tmp_path / "kube-apiserver", "exec sleep 1000")
    processes.ensure(Program(name="kube-apiserver", argv=(apiserver,)))
    paths.kubeconfig.touch()
    # What runs an agent.
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", "exec sleep 1000"))
    for name in NODES:
        processes.ensure(Program(name=name, argv=agent_argv(paths, plan, name)))
    before = {name: processes.find(name) for name in NODES}
    await start_agents(paths, plan)
    label = "overspill.dev/decommission"
    selector = f"{label},kubernetes.io/hostname in ({','.join(NODES)})"
    assert said.read_text().splitlines()[-1] == f"label nodes --selector={selector} {label}- --output=name"
    assert [processes.find(name) == before[name] for name in NODES] == [True, False]
    assert all(processes.find(name).alive for name in NODES)
