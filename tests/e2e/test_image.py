"""What a cluster of one's own is given: the image, as another engine runs it, and an overlay of the manifests."""

import shutil
import subprocess
import sys

import pytest
import yaml
from placement_world import ROOT

import overspill
from podman_service import running_service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_image_is_loaded_elsewhere_and_runs_as_nobody(needs_root, tmp_path):
    archive = tmp_path / "image.tar"
    command = [sys.executable, "-m", "overspill.cli.main", "image", "--output", archive]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    name = made.stdout.strip()
    assert f"podman push {name} REGISTRY/overspill:{overspill.__version__}" in made.stderr
    safe = ("--rm", "--network=none", "--user=65532:65532", "--read-only", "--cap-drop=all")
    with running_service() as podman:
        podman.run("load", "--input", str(archive))
        assert podman.run("run", *safe, name, "--version").strip() == f"overspill {overspill.__version__}"
        assert "--node-name" in podman.run("run", *safe, name, "agent", "--help")


def rendered(cluster, folder):
    """(kind, name) -> object."""
    documents = yaml.safe_load_all(cluster.kubectl("kustomize", str(folder)))
    return {(each["kind"], each["metadata"]["name"].partition("settings-")[0]): each for each in documents}


@pytest.fixture
def copied(tmp_path):
    """The folder as somebody has copied it, beside a checkout."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    return shutil.copytree(ROOT / "examples" / "eci", tmp_path / "examples" / "eci")


def test_the_example_for_eci_is_accepted_by_an_apiserver(control_plane, copied):
    control_plane.kubectl("apply", "--dry-run=server", "-k", str(copied))
    made = rendered(control_plane, copied)
    agents = made["StatefulSet", "virtual-node-eci"]["spec"]
    assert agents["replicas"] == 2
    for workload in (agents, made["Deployment", "overspill-controller"]["spec"]):
        (container,) = workload["template"]["spec"]["containers"]
        assert container["image"] == f"registry.example/overspill:{overspill.__version__}"
        assert container["envFrom"]
    assert made["Deployment", "overspill-approver"]


def test_the_example_with_a_role_and_before_1_36_is_too(control_plane, copied):
    """By the lines of it that are comments."""
    file = copied / "kustomization.yaml"
    lines = [
        line.removeprefix("# ") if line.startswith(("# components", "# patches", "#   ")) else line
        for line in file.read_text().splitlines()
    ]
    file.write_text("\n".join(line for line in lines if "kubectl apply" not in line))
    made = rendered(control_plane, copied)
    for kind, name in (("StatefulSet", "virtual-node-eci"), ("Deployment", "overspill-controller")):
        (container,) = made[kind, name]["spec"]["template"]["spec"]["containers"]
        assert "envFrom" not in container
    assert not [kind for kind, _ in made if kind == "MutatingAdmissionPolicy"]
    assert ("MutatingWebhookConfiguration", "overspill") in made
