"""TCP's own question whether the peer of a silent connection is still there.

In: a connected socket. Out: its options. Invariant: a peer that answers, however slowly it reads, is never given up.
"""

import socket
from contextlib import suppress

__all__ = ["DEAD_AFTER", "keep_alive"]

# Seconds after which a peer that acknowledges nothing is given up; TCP's own patience is a quarter of an hour.
DEAD_AFTER = 30


def keep_alive(sock: socket.socket) -> None:
    """Have the connection end with an error when its peer is gone, though nothing is sent."""
    with suppress(AttributeError, OSError):  # not every platform has all of them
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_AFTER // 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_AFTER // 6)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
