"""The virtual nodes of a local cluster: an overlay on `deploy/base`, to be applied with `kubectl apply -k`.

In: an image, a number, a backend with its options, the host folders that backend needs. Out: a folder
with a kustomization. Invariant: what a local cluster runs is the same manifest that a user applies;
only what differs from machine to machine is patched in.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from overspill.local.paths import write_file

__all__ = ["Overlay", "write_overlay"]

NAMESPACE = "kube-system"
STATEFULSET = "virtual-node-eci"
HEALTH_ADDRESS = "0.0.0.0:10256"  # the pod's own address, known only inside
Manifest = dict[str, Any]


class Overlay(Struct, frozen=True, kw_only=True):
    """What is particular to one cluster.

    Attributes:
        image: name and tag of the agent's image, as it is in the worker's store.
        replicas: number of virtual nodes.
        backend: the backend's name, and
        options: its settings.
        settings: further settings of the agents, by their key in a settings file.
        host_folders: folders mounted into the agents under the same path; they must exist. With any,
            the agents are root in their container.
    """

    image: str
    replicas: int
    backend: str
    options: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}
    host_folders: Sequence[Path] = ()


def write_overlay(overlay: Overlay, *, folder: Path, deploy: Path) -> None:
    """Write the overlay into `folder`; `deploy` is the repository's folder of manifests."""
    base = os.path.relpath((deploy / "base").resolve(), folder.resolve())
    _write(folder / "kustomization.yaml", _kustomization(overlay, base))
    _write(folder / "agent.yaml", _settings(overlay))
    _write(folder / "statefulset.yaml", _patch(overlay.host_folders))


def _kustomization(overlay: Overlay, base: str) -> Manifest:
    name, _, tag = overlay.image.rpartition(":")
    settings = {"name": STATEFULSET, "namespace": NAMESPACE, "behavior": "replace", "files": ["agent.yaml"]}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [base],
        "images": [{"name": "overspill", "newName": name, "newTag": tag}],
        "replicas": [{"name": STATEFULSET, "count": overlay.replicas}],
        "configMapGenerator": [settings],
        "patches": [{"path": "statefulset.yaml"}],
    }


def _settings(overlay: Overlay) -> Manifest:
    return {
        "backend": overlay.backend,
        "backendOptions": dict(overlay.options),
        "healthAddress": HEALTH_ADDRESS,
        **overlay.settings,
    }


def _patch(folders: Sequence[Path]) -> Manifest:
    spec = _with_host_folders(folders) if folders else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": STATEFULSET, "namespace": NAMESPACE},
        "spec": {"template": {"spec": spec}},
    }


def _with_host_folders(folders: Sequence[Path]) -> Manifest:
    """The same as `deploy/podman/statefulset.yaml`, which says why, with other folders."""
    volumes = {f"host-{number}": str(path) for number, path in enumerate(folders)}
    return {
        "securityContext": {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0},
        "containers": [
            {
                "name": "agent",
                "securityContext": {"capabilities": {"add": ["DAC_OVERRIDE", "FOWNER"]}},
                "volumeMounts": [{"name": name, "mountPath": path} for name, path in volumes.items()],
            }
        ],
        "volumes": [
            {"name": name, "hostPath": {"path": path, "type": "Directory"}} for name, path in volumes.items()
        ],
    }


def _write(path: Path, manifest: Manifest) -> None:
    write_file(path, yaml.safe_dump(manifest, sort_keys=False))
