"""The control plane: etcd, apiserver, controller-manager, scheduler, each the stock program.

In: a plan. Out: `Program`s with their flags, and the wait until the apiserver is ready.
Flags of scale runs (`tuned`) lift every limit that would hide the agent's own speed.
"""

import asyncio
import contextlib
import ssl

import aiohttp
import yaml

from overspill.local.builds import Programs
from overspill.local.commands import until
from overspill.local.paths import Paths, write_file
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program

__all__ = ["NAMES", "get", "programs", "start", "wait_usable"]

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
READY_TIMEOUT = 90.0
# The oldest version that these programs can behave as; it has no MutatingAdmissionPolicy, for which a webhook stands in.
WITHOUT_POLICIES = "1.34"


async def start(paths: Paths, plan: Plan, built: Programs) -> None:
    """Have the control plane running and its apiserver ready."""
    processes = Processes(paths)
    etcd, apiserver, *clients = programs(paths, plan, built)
    (paths.root / "etcd").mkdir(exist_ok=True, mode=0o700)
    processes.ensure(etcd)
    await until(
        lambda: _listening(processes, plan.ports["etcd"]), what="etcd to listen", timeout=READY_TIMEOUT
    )
    processes.ensure(apiserver)
    await _wait_ready(paths, plan)
    for client in clients:
        processes.ensure(client)


def programs(paths: Paths, plan: Plan, built: Programs) -> list[Program]:
    """Every program of the control plane, in the order of their start."""
    flags = {
        "etcd": _etcd(paths, plan),
        "kube-apiserver": _apiserver(paths, plan),
        "kube-controller-manager": _controller_manager(paths, plan),
        "kube-scheduler": _scheduler(paths, plan),
    }
    if plan.injection == "webhook":
        for name in NAMES[1:]:
            flags[name]["emulated-version"] = WITHOUT_POLICIES
    return [
        Program(name=name, argv=(built.path(name), *(f"--{key}={value}" for key, value in values.items())))
        for name, values in flags.items()
    ]


def _etcd(paths: Paths, plan: Plan) -> dict[str, object]:
    client = f"https://127.0.0.1:{plan.ports['etcd']}"
    peer = f"http://127.0.0.1:{plan.ports['etcd-peer']}"
    return {
        "name": "default",
        "data-dir": paths.root / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "client-cert-auth": "true",
        "trusted-ca-file": paths.pki / "etcd-ca.crt",
        "cert-file": paths.pki / "etcd.crt",
        "key-file": paths.pki / "etcd.key",
        # A throw-away cluster: what a power cut costs is another `up`.
        "unsafe-no-fsync": "true",
        "quota-backend-bytes": 8 << 30,
        "log-level": "warn",
    }


def _apiserver(paths: Paths, plan: Plan) -> dict[str, object]:
    pki = paths.pki
    flags: dict[str, object] = {
        "bind-address": plan.host_address,
        "advertise-address": plan.host_address,
        "secure-port": plan.ports["apiserver"],
        "etcd-servers": f"https://127.0.0.1:{plan.ports['etcd']}",
        "etcd-cafile": pki / "etcd-ca.crt",
        "etcd-certfile": pki / "apiserver-etcd-client.crt",
        "etcd-keyfile": pki / "apiserver-etcd-client.key",
        "client-ca-file": pki / "ca.crt",
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-certificate-authority": pki / "ca.crt",
        "kubelet-client-certificate": pki / "apiserver-kubelet-client.crt",
        "kubelet-client-key": pki / "apiserver-kubelet-client.key",
        "requestheader-client-ca-file": pki / "front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": pki / "front-proxy-client.crt",
        "proxy-client-key-file": pki / "front-proxy-client.key",
        # To the endpoints of an aggregated API's Service; on loopback it has none, but a name.
        "enable-aggregator-routing": "true" if plan.machine else "false",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": pki / "service-account.pub",
        "service-account-signing-key-file": pki / "service-account.key",
        "service-cluster-ip-range": plan.service_range,
    }
    if not plan.machine:
        # A loopback address may not stand in the endpoints of Service kubernetes.
        flags["endpoint-reconciler-type"] = "none"
    if plan.tuned:
        flags |= {
            "max-requests-inflight": 0,
            "max-mutating-requests-inflight": 0,
            "enable-priority-and-fairness": "false",
        }
    return flags


def _controller_manager(paths: Paths, plan: Plan) -> dict[str, object]:
    config = paths.pki / "controller-manager.kubeconfig"
    flags: dict[str, object] = {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": "127.0.0.1",
        "secure-port": plan.ports["controller-manager"],
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "service-account-private-key-file": paths.pki / "service-account.key",
        "root-ca-file": paths.pki / "ca.crt",
        "cluster-signing-cert-file": paths.pki / "ca.crt",
        "cluster-signing-key-file": paths.pki / "ca.key",
        # Of 15 s: a local cluster is looked at by somebody who waits.
        "horizontal-pod-autoscaler-sync-period": "5s",
        "kube-api-qps": _client_limits(plan)[0],
        "kube-api-burst": _client_limits(plan)[1],
    }
    if plan.tuned:
        flags |= {
            "concurrent-replicaset-syncs": 50,
            "concurrent-gc-syncs": 50,
        }
    return flags


def _client_limits(plan: Plan) -> tuple[int, int]:
    """Requests per second and burst of the stock controllers; by default they allow themselves 20 and 30."""
    return (5000, 10000) if plan.tuned else (300, 600)


def _scheduler(paths: Paths, plan: Plan) -> dict[str, object]:
    config = paths.pki / "scheduler.kubeconfig"
    qps, burst = _client_limits(plan)
    file = paths.config / "scheduler.yaml"
    content = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(config), "qps": qps, "burst": burst},
    }
    write_file(file, yaml.safe_dump(content, sort_keys=False))
    return {
        "config": file,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": "127.0.0.1",
        "secure-port": plan.ports["scheduler"],
    }


async def _listening(processes: Processes, port: int) -> bool:
    processes.require("etcd")
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _wait_ready(paths: Paths, plan: Plan) -> None:
    processes = Processes(paths)

    async def ready() -> bool:
        processes.require("kube-apiserver")
        return await get(paths, plan, "/readyz") is not None

    await until(
        ready,
        what=f"kube-apiserver at {plan.endpoint} to be ready",
        timeout=READY_TIMEOUT,
        why=lambda: f"; see {processes.log('kube-apiserver')}",
    )


async def wait_usable(paths: Paths, plan: Plan) -> None:
    """Wait until pods can be created, which takes the service account that the controller-manager makes.

    Raises:
        Retry: it was not made in time.
    """
    account = "/api/v1/namespaces/default/serviceaccounts/default"

    async def made() -> bool:
        Processes(paths).require("kube-controller-manager")
        return await get(paths, plan, account) is not None

    await until(made, what="the default service account", timeout=READY_TIMEOUT)


async def get(paths: Paths, plan: Plan, path: str) -> bytes | None:
    """What the apiserver answers to the administrator; None when it does not answer 200, or has no certificates yet."""
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        context = ssl.create_default_context(cafile=paths.pki / "ca.crt")
        context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(plan.endpoint + path) as response,
        ):
            return await response.read() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
