"""Addresses of the pods.

In: a CIDR. Out: addresses, each held by one pod at a time. Invariant: one that was given back is
used again only after all others were, so that nobody mistakes a new pod for a dead one.
"""

import ipaddress
import re
from collections import deque

from overspill.backends.simulated.options import chance
from overspill.errors import Misconfigured

__all__ = ["AddressPool", "node_cidr"]

SHARED = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598: no cluster's own range
PART_BITS = 15  # 32,766 pods a node
PARTS = 1 << (32 - SHARED.prefixlen - PART_BITS)


def node_cidr(node: str) -> str:
    """A node's own part of the shared range: by the number at the end of its name, else by its name."""
    number = re.search(r"[0-9]{1,9}$", node)
    part = int(number[0]) % PARTS if number else int(chance(node) * PARTS)
    return f"{SHARED.network_address + (part << PART_BITS)}/{32 - PART_BITS}"


class AddressPool:
    """The addresses of one CIDR, without its first and its last one.

    Raises:
        Misconfigured: it is no CIDR, or has no address to give.
    """

    def __init__(self, cidr: str) -> None:
        try:
            network = ipaddress.ip_network(cidr)
        except ValueError as error:
            raise Misconfigured(f"backend simulated: option cidr: {error}") from error
        self.cidr = cidr
        self._first = int(network.network_address)
        self._text = _dotted if network.version == 4 else lambda number: str(ipaddress.IPv6Address(number))
        self._used = 0
        self._size = network.num_addresses - 2
        self._returned: deque[str] = deque()
        if self._size < 1:
            raise Misconfigured(f"backend simulated: option cidr: {cidr} has no address for a pod")

    def take(self) -> str:
        """A free address, or "" if there is none."""
        if self._used < self._size:
            self._used += 1
            return self._text(self._first + self._used)
        return self._returned.popleft() if self._returned else ""

    def give_back(self, address: str) -> None:
        """Free an address."""
        self._returned.append(address)


def _dotted(number: int) -> str:
    """An IPv4 address as text; `ipaddress` takes five times as long."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
