"""Services and names: kube-proxy in the machine, CoreDNS on the host.

In: a plan. Out: ClusterIPs that work from every pod, and Service kube-system/kube-dns. CoreDNS stands on the
host, where the host's own name servers are within reach, and listens at the host's end of the link.
"""

import asyncio

from overspill.local.builds import Programs
from overspill.local.commands import until
from overspill.local.machine import enter
from overspill.local.paths import Paths, write_file
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.render import render
from overspill.local.worker import RESOLV_CONF, name_servers

__all__ = ["start_dns", "start_proxy"]

READY_TIMEOUT = 60.0


def start_proxy(paths: Paths, built: Programs, *, node: str) -> None:
    """Have kube-proxy started, on behalf of a node: it waits half a minute for one that never comes."""
    flags = {
        "kubeconfig": paths.pki / "kube-proxy.kubeconfig",
        "hostname-override": node,
        "proxy-mode": "nftables",
        # The limits of connection tracking belong to the host.
        "conntrack-max-per-core": 0,
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
        "conntrack-udp-timeout": "0s",
        "conntrack-udp-timeout-stream": "0s",
    }
    argv = (built.path("kube-proxy"), *(f"--{key}={value}" for key, value in flags.items()))
    Processes(paths).ensure(Program(name="kube-proxy", argv=enter(paths, argv)))


async def start_dns(paths: Paths, plan: Plan, built: Programs) -> None:
    """Have CoreDNS ready.

    Raises:
        Retry: it did not become ready.
    """
    servers = name_servers(RESOLV_CONF.read_text(encoding="utf-8") if RESOLV_CONF.exists() else "")
    corefile = paths.config / "Corefile"
    values = {
        "address": plan.host_address,
        "ports": plan.ports,
        "kubeconfig": paths.pki / "coredns.kubeconfig",
    }
    write_file(corefile, render("Corefile", forward=bool(servers), resolv_conf=RESOLV_CONF, **values))
    processes = Processes(paths)
    processes.ensure(Program(name="coredns", argv=(built.path("coredns"), "-conf", str(corefile))))

    async def ready() -> bool:
        processes.require("coredns")
        return await _answers_ok(plan.host_address, plan.ports["dns-ready"])

    await until(ready, what="CoreDNS to be ready", timeout=READY_TIMEOUT)


async def _answers_ok(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return b" 200 " in line
