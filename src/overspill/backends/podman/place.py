"""Where a probe or hook asks, and what it hears: what all kinds of them share.

In: a container's address and network. Out: sockets to it, an `Outcome`. Invariant: a pod is asked at its own
address, from within its network where that can be entered, else from here.
"""

import asyncio
import os
import socket

from msgspec import Struct

from overspill.backends.podman.api import Podman
from overspill.backends.podman.forward import socket_in

__all__ = ["LONGEST", "Outcome", "Place", "connected", "dial_error", "host_port"]

LONGEST = 10 << 10  # bytes of output that are kept


class Place(Struct, frozen=True):
    """Where a run of a container is: in which Podman, under which id, at which address of which network."""

    podman: Podman
    run: str
    address: str
    namespace: str

    async def socket_to(self, host: str) -> socket.socket:
        """A socket for a connection to a host, which if empty is the pod itself."""
        family = socket.AF_INET6 if ":" in (host or self.address) else socket.AF_INET
        if not host and self.namespace:
            try:
                return await socket_in(self.namespace, family)
            except OSError:
                pass  # no way in: the namespace is another machine's or another container's to see
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made


class Outcome(Struct, frozen=True):
    """An answer. `warning`: it counts as healthy, and the user should hear of it."""

    healthy: bool
    output: str
    warning: bool = False


async def connected(place: Place, host: str, port: int) -> socket.socket:
    """A connection to a port of the pod, or of another host."""
    made = await place.socket_to(host)
    try:
        await asyncio.get_running_loop().sock_connect(made, (host or place.address, port))
    except UnicodeError as error:  # what cannot be encoded cannot be looked up
        made.close()
        raise OSError(f"lookup {host}: no such host") from error
    except BaseException:
        made.close()
        raise
    return made


def dial_error(target: str, error: OSError) -> str:
    """Why there is no connection, as Go says it; a `TimeoutError` is an `OSError`, too."""
    if isinstance(error, TimeoutError):
        return f"dial tcp {target}: i/o timeout"
    why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
    return f"dial tcp {target}: connect: {why}"


def host_port(host: str, port: int) -> str:
    """As in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
