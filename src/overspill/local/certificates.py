"""The authorities, certificates and kubeconfigs of a cluster, as files.

In: a plan. Out: files under `pki/`, and the administrator's kubeconfig. Invariant: what is good is kept;
a leaf is issued anew when it is missing, nears its end, or no longer serves the wanted names.
"""

import base64
from pathlib import Path

import yaml
from msgspec import Struct

from overspill import pki
from overspill.local.paths import Paths, write_file
from overspill.local.plan import Plan
from overspill.pki import KeyPair

__all__ = ["ensure_certificates"]

# Leaves live a year; an `up` within the last month renews them.
RENEW_DAYS = 30
WORKER = "worker-0"


class Leaf(Struct, frozen=True, kw_only=True):
    """A certificate to have."""

    file: str
    authority: str = "ca"
    name: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    server: bool = False
    client: bool = True
    kubeconfig: bool = False


def _leaves(plan: Plan) -> list[Leaf]:
    serving = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        plan.host_address,
        str(plan.service_range[1]),
    )
    return [
        Leaf(file="apiserver", name="kube-apiserver", hosts=serving, server=True, client=False),
        Leaf(
            file="emulator",
            name="eci-emulator",
            hosts=("localhost", "127.0.0.1", plan.node_address),
            server=True,
            client=False,
        ),
        Leaf(file="apiserver-kubelet-client", name="kube-apiserver-kubelet-client"),
        _account(
            "metrics-server",
            "metrics-server",
            hosts=("metrics-server.kube-system.svc", plan.host_address),
            server=True,
        ),
        Leaf(
            file="etcd",
            authority="etcd-ca",
            name="etcd",
            hosts=("localhost", "127.0.0.1"),
            server=True,
        ),
        Leaf(file="apiserver-etcd-client", authority="etcd-ca", name="kube-apiserver-etcd-client"),
        Leaf(file="front-proxy-client", authority="front-proxy-ca", name="front-proxy-client"),
        Leaf(file="admin", name="kubernetes-admin", groups=("system:masters",), kubeconfig=True),
        Leaf(file="controller-manager", name="system:kube-controller-manager", kubeconfig=True),
        Leaf(file="scheduler", name="system:kube-scheduler", kubeconfig=True),
        Leaf(file="kube-proxy", name="system:kube-proxy", kubeconfig=True),
        Leaf(file="coredns", name="system:coredns", kubeconfig=True),
        _account("approver", "overspill-approver"),
        _account("agent", "virtual-node-eci"),
        _account("controller", "overspill-controller"),
        _account("guard", "overspill-guard"),
        Leaf(
            file="kubelet",
            name=f"system:node:{WORKER}",
            groups=("system:nodes",),
            hosts=(WORKER, plan.node_address),
            server=True,
            kubeconfig=True,
        ),
    ]


def _account(file: str, account: str, *, hosts: tuple[str, ...] = (), server: bool = False) -> Leaf:
    """What runs outside the cluster has the name of a service account, and so the rights that manifests bind to it."""
    return Leaf(
        file=file,
        name=f"system:serviceaccount:kube-system:{account}",
        groups=("system:serviceaccounts", "system:serviceaccounts:kube-system"),
        hosts=hosts,
        server=server,
        kubeconfig=True,
    )


def ensure_certificates(paths: Paths, plan: Plan) -> bool:
    """Have every file; returns whether one had to be made anew."""
    changed = False
    for name in ("ca", "etcd-ca", "front-proxy-ca"):
        if not (paths.pki / f"{name}.crt").exists():
            _write(paths.pki / name, pki.new_authority(f"overspill-{plan.name}-{name}"))
            changed = True
    if not (paths.pki / "service-account.pub").exists():
        _write(paths.pki / "service-account", pki.new_signing_key(), public=".pub")
    for leaf in _leaves(plan):
        changed |= _ensure_leaf(paths, plan, leaf)
    write_file(paths.kubeconfig, (paths.pki / "admin.kubeconfig").read_bytes(), mode=0o600)
    return changed


def _ensure_leaf(paths: Paths, plan: Plan, leaf: Leaf) -> bool:
    authority = _read(paths.pki / leaf.authority)
    stem = paths.pki / leaf.file
    changed = not _is_good(stem.with_suffix(".crt"), leaf)
    if changed:
        pair = pki.issue(
            authority,
            common_name=leaf.name,
            organizations=leaf.groups,
            hosts=leaf.hosts,
            server=leaf.server,
            client=leaf.client,
        )
        _write(stem, pair)
    if leaf.kubeconfig:
        text = kubeconfig(plan, authority.certificate, _read(stem), user=leaf.name)
        write_file(stem.with_suffix(".kubeconfig"), text, mode=0o600)
    return changed


def _is_good(file: Path, leaf: Leaf) -> bool:
    if not file.exists() or not file.with_suffix(".key").exists():
        return False
    certificate = file.read_bytes()
    return pki.days_left(certificate) > RENEW_DAYS and set(leaf.hosts) <= pki.subject_names(certificate)


def _read(stem: Path) -> KeyPair:
    return KeyPair(stem.with_suffix(".crt").read_bytes(), stem.with_suffix(".key").read_bytes())


def _write(stem: Path, pair: KeyPair, *, public: str = ".crt") -> None:
    """The key first: a certificate without its key would pass for complete after a crash."""
    write_file(stem.with_suffix(".key"), pair.key, mode=0o600)
    write_file(stem.with_suffix(public), pair.certificate)


def kubeconfig(plan: Plan, authority: bytes, pair: KeyPair, *, user: str) -> str:
    """A kubeconfig with everything inline."""
    name = plan.name
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": plan.endpoint, "certificate-authority-data": _b64(authority)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _b64(pair.certificate),
                    "client-key-data": _b64(pair.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    return yaml.safe_dump(content, sort_keys=False)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
