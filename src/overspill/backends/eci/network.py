"""Name resolution, hosts and kernel settings of a pod as parameters of CreateContainerGroup.

In: a work spec. Out: parameters. Pure. Invariant: `ClusterFirst` never reaches ECI, which
does not know it; the work spec holds the name servers and search domains it stands for.
"""

from overspill.backends.eci.wire import Params
from overspill.model.work import Dns, WorkSpec

__all__ = ["SYSCTLS_OF_GROUP", "SYSCTLS_OF_HOST", "network"]

# What ECI lets any group set, and what it sets on the instance below it.
SYSCTLS_OF_GROUP = frozenset({"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"})
SYSCTLS_OF_HOST = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net.")


def network(work: WorkSpec) -> Params:
    """What the group as a whole is given."""
    group = [(name, value) for name, value in work.sysctls if name in SYSCTLS_OF_GROUP]
    host = [(name, value) for name, value in work.sysctls if name not in SYSCTLS_OF_GROUP]
    return {
        "HostName": work.hostname,
        "HostAliase": [{"Ip": alias.ip, "Hostname": alias.hostnames} for alias in work.host_aliases],
        **_dns(work.dns),
        "SecurityContext": {"Sysctl": _sysctls(group)},
        "HostSecurityContext": {"Sysctl": _sysctls(host)},
    }


def _dns(dns: Dns | None) -> Params:
    if dns is None:
        return {"DnsPolicy": "Default"}
    config = {
        "NameServer": dns.nameservers,
        "Search": dns.searches,
        "Option": [_option(option) for option in dns.options],
    }
    return {"DnsPolicy": "None", "DnsConfig": config}


def _option(text: str) -> Params:
    """`ndots:5` as name and value; `edns0` has none."""
    name, _, value = text.partition(":")
    return {"Name": name, "Value": value or None}


def _sysctls(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in pairs]
