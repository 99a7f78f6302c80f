"""What a pod's name resolution is told: host name, domain, resolv.conf, more lines of /etc/hosts.

In: a PodSpec, the node's DNS settings. Out: values of a `WorkSpec`. Pure.
Sources: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/; limits of
k8s.io/kubernetes/pkg/apis/core/validation (MaxDNSNameservers, MaxDNSSearchPaths, MaxDNSSearchListChars).
"""

from collections.abc import Sequence

from overspill.agent.scope import NodeFacts
from overspill.errors import Unsupported
from overspill.model.pods import DnsConfig, DnsOption, PodSpec
from overspill.model.work import Dns, HostAlias

__all__ = ["dns", "domain", "host_aliases", "hostname", "hostname_is_fqdn"]

HOSTNAME_LENGTH, KERNEL_NAME_LENGTH = 63, 64
NAMESERVERS, SEARCHES, SEARCH_CHARS, DOMAIN_CHARS = 3, 32, 2048, 253
CLUSTER_OPTIONS = {"ndots": "5"}
NO_CONFIG = DnsConfig()


def hostname(spec: PodSpec, pod_name: str) -> str:
    """The pod's host name: 63 characters at most, and no dash or dot at a cut end."""
    name = spec.hostname or pod_name
    return name if len(name) <= HOSTNAME_LENGTH else name[:HOSTNAME_LENGTH].rstrip("-.")


def domain(spec: PodSpec, namespace: str, cluster_domain: str) -> str:
    """The pod's own DNS domain, "" without a subdomain."""
    return f"{spec.subdomain}.{namespace}.svc.{cluster_domain}" if spec.subdomain else ""


def hostname_is_fqdn(spec: PodSpec, name: str, domain: str) -> bool:
    """Whether the kernel's host name is to be the full one.

    Raises:
        Unsupported: the kernel has no room for it.
    """
    if not spec.set_hostname_as_fqdn or not domain:
        return False
    full = f"{name}.{domain}"
    if len(full) > KERNEL_NAME_LENGTH:
        field = "spec.setHostnameAsFQDN"
        raise Unsupported(
            f"{field}: Failed to construct FQDN from Pod hostname and cluster domain, FQDN {full} is too long"
            f" ({KERNEL_NAME_LENGTH} characters is the max, {len(full)} characters requested)",
            fields=(field,),
        )
    return True


def host_aliases(spec: PodSpec) -> tuple[HostAlias, ...]:
    """The lines that the pod adds to /etc/hosts."""
    return tuple(HostAlias(alias.ip, alias.hostnames) for alias in spec.host_aliases)


def dns(spec: PodSpec, namespace: str, node: NodeFacts) -> tuple[Dns | None, list[str]]:
    """What goes into resolv.conf (None: the backend's own), and what had to be left out of it.

    `ClusterFirst` without a known cluster DNS is `Default`, as the kubelet has it.

    Raises:
        Unsupported: dnsConfig shall add to the resolv.conf of a node that has none.
    """
    config = spec.dns_config
    if spec.dns_policy == "None":
        return _within_limits(Dns(config.nameservers, config.searches, _options({}, config.options)))
    if spec.dns_policy == "Default" or not node.cluster_dns:
        if config != NO_CONFIG:
            raise Unsupported(
                "spec.dnsConfig: with dnsPolicy Default (or without a cluster DNS) it adds to the node's own"
                " resolv.conf, and a virtual node has none; use dnsPolicy None",
                fields=("spec.dnsConfig",),
            )
        return None, []
    cluster = node.cluster_domain
    searches = (f"{namespace}.svc.{cluster}", f"svc.{cluster}", cluster) if cluster else ()
    return _within_limits(
        Dns(
            _unique((*node.cluster_dns, *config.nameservers)),
            _unique((*searches, *config.searches)),
            _options(CLUSTER_OPTIONS, config.options),
        )
    )


def _unique(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _options(given: dict[str, str], added: Sequence[DnsOption]) -> tuple[str, ...]:
    merged = given | {option.name: option.value or "" for option in added}
    return tuple(f"{name}:{value}" if value else name for name, value in merged.items())


def _within_limits(wanted: Dns) -> tuple[Dns, list[str]]:
    nameservers = wanted.nameservers[:NAMESERVERS]
    searches = tuple(search for search in wanted.searches[:SEARCHES] if len(search) <= DOMAIN_CHARS)
    while len(" ".join(searches)) > SEARCH_CHARS:
        searches = searches[:-1]
    left_out: list[str] = []
    if nameservers != wanted.nameservers:
        left_out.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(nameservers)
        )
    if searches != wanted.searches:
        left_out.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(searches)
        )
    return Dns(nameservers, searches, wanted.options), left_out
