"""Whom a container runs as, and what it may do: the kubelet's checks, and Podman's settings.

In: a `WorkSpec`, one of its containers, what the image says of its user. Out: parts of a create request, or
`ConfigError` with the kubelet's words. Pure. Invariant: nothing here gives a container more than it asked for.
Sources: k8s.io/kubernetes pkg/kubelet/kuberuntime/security_context_linux.go (verifyRunAsNonRoot),
pkg/kubelet/sysctl/safe_sysctls.go; https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from typing import Any

from overspill.backends.podman.seen import PulledImage
from overspill.errors import Rejected
from overspill.model.work import Container, WorkSpec

__all__ = ["ConfigError", "forbidden_sysctls", "security_settings", "verify_non_root"]

# What one pod may set without touching another: the kubelet's list of kernel 5.x.
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)


class ConfigError(Rejected):
    """A container cannot be made as it is configured: it waits with reason CreateContainerConfigError."""


def forbidden_sysctls(work: WorkSpec) -> list[str]:
    """The sysctls of a pod that could touch other pods."""
    return [name for name, _ in work.sysctls if name.replace("/", ".") not in SAFE_SYSCTLS]


def verify_non_root(work: WorkSpec, container: Container, image: PulledImage) -> None:
    """Hold a container to its runAsNonRoot.

    Raises:
        ConfigError: it would run as root, or nobody can tell.
    """
    security = container.security
    if not security.run_as_non_root:
        return
    who = work.identity
    where = f'(pod: "{who.name}_{who.namespace}({who.uid})", container: {container.name})'
    user = image.user.partition(":")[0]
    if security.run_as_user is not None:
        if security.run_as_user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
    elif user and not user.isdecimal():
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({user}),"
            f" cannot verify user is non-root {where}"
        )
    elif not user or int(user) == 0:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")


def security_settings(work: WorkSpec, container: Container, image: PulledImage) -> dict[str, Any]:
    """Podman's words for a container's security context; what is not asked for stays Podman's default."""
    security = container.security
    groups = dict.fromkeys((*work.supplemental_groups, *(() if work.fs_group is None else (work.fs_group,))))
    settings = {
        "user": _user(container, image),
        "groups": [str(group) for group in groups],
        "cap_add": list(security.add_capabilities),
        "cap_drop": list(security.drop_capabilities),
        "no_new_privileges": security.no_new_privileges,
        "read_only_filesystem": security.read_only_root_filesystem,
        "seccomp_profile_path": "unconfined" if security.seccomp == "Unconfined" else "",
    }
    return {name: value for name, value in settings.items() if value}


def _user(container: Container, image: PulledImage) -> str:
    security = container.security
    if security.run_as_group is None:
        return "" if security.run_as_user is None else str(security.run_as_user)
    user = image.user.partition(":")[0] if security.run_as_user is None else str(security.run_as_user)
    return f"{user or '0'}:{security.run_as_group}"
