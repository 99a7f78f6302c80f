"""Free ports and address ranges of this machine.

In: what others have taken. Out: ports and one /16 per cluster. Invariant: a choice is made once,
written into the cluster's plan, and kept until the cluster is taken down.
"""

import ipaddress
import random
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from overspill.errors import Misconfigured

__all__ = ["choose_network", "choose_ports", "is_free", "routed_networks"]

# Below the range that outgoing connections take their ports from, and below NodePorts.
FIRST_PORT, LAST_PORT = 20000, 29999


def candidate_networks() -> Iterator[IPv4Network]:
    """The /16s that a cluster may take, the least used by others first."""
    for second in range(200, 250):
        yield IPv4Network(f"10.{second}.0.0/16")
    for second in range(16, 32):
        yield IPv4Network(f"172.{second}.0.0/16")


def choose_network(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first /16 that overlaps nothing taken.

    Raises:
        Misconfigured: all are taken.
    """
    others = list(taken)
    for network in candidate_networks():
        if not any(network.overlaps(other) for other in others):
            return network
    raise Misconfigured(
        "no free /16 in 10.200.0.0-10.249.255.255 or 172.16.0.0/12: the routes of this machine cover all; "
        "take down a cluster or disconnect a VPN"
    )


def routed_networks(table: str | None = None) -> list[IPv4Network]:
    """Networks that this machine has a route to (the default route aside), from /proc/net/route."""
    text = Path("/proc/net/route").read_text(encoding="ascii") if table is None else table
    rows = [line.split() for line in text.splitlines()[1:]]
    networks = [_network(row[1], row[7]) for row in rows if len(row) > 7]
    return [network for network in networks if network.prefixlen > 0]


def _network(destination: str, mask: str) -> IPv4Network:
    """Both are hexadecimal in the byte order of the machine."""
    address, bits = (ipaddress.IPv4Address(struct.pack("=I", int(word, 16))) for word in (destination, mask))
    return IPv4Network(f"{address}/{bits}")


def choose_ports(names: Sequence[str], taken: Collection[int]) -> dict[str, int]:
    """A free port of loopback and every other address for each name, for TCP and UDP.

    Raises:
        Misconfigured: there are not enough.
    """
    start = random.randrange(FIRST_PORT, LAST_PORT)  # noqa: S311 - two commands at once should not meet
    order = [*range(start, LAST_PORT + 1), *range(FIRST_PORT, start)]
    free = (port for port in order if port not in taken and is_free(port))
    ports = dict(zip(names, free, strict=False))
    if len(ports) < len(names):
        raise Misconfigured(f"fewer than {len(names)} free ports between {FIRST_PORT} and {LAST_PORT}")
    return ports


def is_free(port: int) -> bool:
    """Whether nobody listens at this port, on any address."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - bound for an instant, never listened at
            except OSError:
                return False
    return True
