"""Base and overflow placement on a local cluster: definitions and gates, and the controller.

In: a plan, `deploy/placement` of the checkout. Out: a Deployment on the worker, or a plain process without one.
Invariant: the manifests are the ones that a user applies; the local overlay sets the image only.
"""

import os
import sys
from pathlib import Path

import yaml

from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths, repository, write_file
from overspill.local.processes import Processes, Program

__all__ = ["CONTROLLER_NAME", "start_controller", "start_controller_pods"]

CONTROLLER_NAME = "overspill-controller"


async def start_controller_pods(paths: Paths, *, image: str) -> None:
    """Apply the manifests; the controller's pods run on the worker."""
    folder = paths.config / "placement"
    write_file(folder / "kustomization.yaml", _overlay(folder, image=image))
    await kubectl(paths, "apply", "-k", str(folder))


def _overlay(folder: Path, *, image: str) -> str:
    name, _, tag = image.rpartition(":")
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # Kustomize takes no absolute path.
        "resources": [os.path.relpath(repository() / "deploy" / "placement", folder)],
        "images": [{"name": "overspill", "newName": name, "newTag": tag}],
    }
    return yaml.safe_dump(content, sort_keys=False)


async def start_controller(paths: Paths) -> None:
    """Have the controller running as a process of this machine."""
    deploy = repository() / "deploy" / "placement"
    await kubectl(paths, "apply", "-k", str(deploy / "definitions"))
    await kubectl(paths, "apply", "-f", str(deploy / "gate.yaml"), "-f", str(deploy / "rbac.yaml"))
    config = paths.pki / "controller.kubeconfig"
    flags = (f"--kubeconfig={config}", "--health-address=127.0.0.1:0")
    argv = (sys.executable, "-m", "overspill.cli.main", "controller", *flags)
    Processes(paths).ensure(Program(name=CONTROLLER_NAME, argv=argv))
