"""The walkthrough that `make demo` shows, run to its end."""

import os
import pathlib
import subprocess
import sys

import pytest

from overspill.local.paths import cluster_paths
from overspill.local.processes import marked

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")

STEPS = [
    "1. A cluster with its own node, and a virtual one",
    "2. More capacity: scale the virtual nodes",
    "3. Ten pods of a labelled namespace run on virtual nodes",
    "4. Update, roll back, delete: as on any node",
    "5. Drain the virtual nodes and remove them",
    "6. Base and overflow: under load from 3 pods to 12, a rollout, and back to 3",
    "7. A taste of scale: 1,000 pods on simulated nodes",
]


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("backend", ["eci", pytest.param("podman", marks=pytest.mark.matrix)])
def test_every_step_holds_and_nothing_is_left(backend):
    name = f"walk-{os.getpid()}-{backend}"
    command = [OVERSPILL, "demo", "--name", name, "--backend", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1400)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in STEPS] == STEPS
    assert lines[-1] == "✓ every step held"
    root = cluster_paths(name).root
    assert not root.exists()
    assert marked(root) == set()
    assert str(root) not in pathlib.Path("/proc/self/mountinfo").read_text()
