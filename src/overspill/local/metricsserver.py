"""metrics-server: what `kubectl top` and the HPA ask, the stock program as an aggregated API.

In: a plan, a ready apiserver. Out: API metrics.k8s.io/v1beta1. Invariant: nothing is taken on trust: the
apiserver verifies its certificate, and it the kubelets', both by the cluster's authority.
"""

import base64

import msgspec
from msgspec import Struct

from overspill.local.builds import Programs
from overspill.local.commands import until
from overspill.local.controlplane import get
from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.render import render

__all__ = ["NAME", "start_metrics_server"]

NAME = "metrics-server"
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
# The shortest that it takes: a local cluster is looked at by somebody who waits.
RESOLUTION = "10s"
REQUEST_TIMEOUT = "9s"  # must be shorter
READY_TIMEOUT = 60.0


class _Condition(Struct, frozen=True):
    type: str
    status: str
    message: str = ""


class _Status(Struct, frozen=True):
    conditions: list[_Condition] = []


class _ApiService(Struct, frozen=True):
    status: _Status = _Status()


async def start_metrics_server(paths: Paths, plan: Plan, built: Programs) -> None:
    """Have metrics-server running and its API available; the first figures follow two resolutions later.

    Raises:
        Retry: it did not become available.
    """
    processes = Processes(paths)
    # First what it may do: without that it ends at once.
    await kubectl(paths, "apply", "-f", "-", stdin=_manifest(paths, plan))
    processes.ensure(_program(paths, plan, built))
    trouble = ""

    async def available() -> bool:
        nonlocal trouble
        processes.require(NAME)
        answer = await get(paths, plan, API_SERVICE)
        conditions = msgspec.json.decode(answer, type=_ApiService).status.conditions if answer else []
        trouble = "".join(f": {each.message}" for each in conditions)
        return any(each.type == "Available" and each.status == "True" for each in conditions)

    await until(
        available,
        what="API metrics.k8s.io to be available",
        timeout=READY_TIMEOUT,
        why=lambda: f"{trouble}; see {processes.log(NAME)}",
    )


def _program(paths: Paths, plan: Plan, built: Programs) -> Program:
    config = paths.pki / f"{NAME}.kubeconfig"
    flags = {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": plan.host_address,
        "secure-port": plan.ports[NAME],
        "tls-cert-file": paths.pki / f"{NAME}.crt",
        "tls-private-key-file": paths.pki / f"{NAME}.key",
        "metric-resolution": RESOLUTION,
        "kubelet-request-timeout": REQUEST_TIMEOUT,
        "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
        "kubelet-use-node-status-port": "true",
        "kubelet-certificate-authority": paths.pki / "ca.crt",
    }
    argv = (built.path(NAME), *(f"--{key}={value}" for key, value in flags.items()))
    return Program(name=NAME, argv=argv)


def _manifest(paths: Paths, plan: Plan) -> bytes:
    values = {
        "machine": plan.machine,
        "host_address": plan.host_address,
        "port": plan.ports[NAME],
        "ca": base64.b64encode((paths.pki / "ca.crt").read_bytes()).decode(),
    }
    return render(f"{NAME}.yaml", **values).encode()
