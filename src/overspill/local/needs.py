"""What a cluster needs of this machine, asked before anything is started.

In: a plan. Out: nothing, or one error that names everything that is missing and how to get it.
"""

import shutil
from pathlib import Path

from overspill.errors import Misconfigured
from overspill.local.plan import Plan
from overspill.local.processes import PATH

__all__ = ["check_needs", "missing_packages"]

# Programs (or files) and the Debian packages that bring them.
MACHINE = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux"}
WORKER = {
    "runc": "runc",
    "conntrack": "conntrack",
    "mmdebstrap": "mmdebstrap",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/portmap": "containernetworking-plugins",
}
PODMAN = {
    "podman": "podman",
    "runc": "runc",
    "conmon": "conmon",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/libexec/podman/catatonit": "catatonit",
}


def missing_packages(plan: Plan) -> list[str]:
    """The Debian packages that this cluster lacks here."""
    wanted = dict(MACHINE) if plan.machine else {}
    wanted |= WORKER if plan.workers else {}
    wanted |= PODMAN if plan.cloud else {}
    return sorted({package for program, package in wanted.items() if not _is_there(program)})


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program, path=PATH) is not None


def check_needs(plan: Plan) -> None:
    """See that what the cluster needs is installed.

    Raises:
        Misconfigured: something is missing; names the packages, and what works without them.
    """
    missing = missing_packages(plan)
    if missing:
        raise Misconfigured(
            f"this cluster needs Debian packages that are not installed: {', '.join(missing)}; "
            f"`make setup` or `apt-get install {' '.join(missing)}` brings them; "
            "without them this works: `overspill up --workers 0 --backend simulated`"
        )
