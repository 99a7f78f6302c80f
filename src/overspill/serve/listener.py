"""The listening socket, its TLS, and what a new certificate changes.

In: certificate and key, client CA. Out: connections. Invariant: a connection keeps the TLS it began
with; no connection that waits to be accepted is lost when the TLS changes, since old and new listener
share one socket.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial

import structlog
from msgspec import Struct

from overspill.errors import Misconfigured
from overspill.kube.keepalive import keep_alive
from overspill.kube.tls import load_pair

__all__ = ["Bound", "Era", "Listener", "bind"]

log = structlog.get_logger(__name__)

HANDSHAKE_TIMEOUT = 10.0
BACKLOG = 128

Bound = socket.socket


class Era(Struct, frozen=True):
    """What connections are accepted with for a while.

    Attributes:
        number: of changes before it.
        client_ca: whose client certificates are taken, PEM.
    """

    number: int = 0
    client_ca: str = ""


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Era], None]


def bind(address: str, *, what: str, flag: str) -> socket.socket:
    """A socket for `host:port` that does not listen yet; port 0 takes a free one.

    `what` is to listen there, and `flag` names another place for it.

    Raises:
        Misconfigured: the address cannot be had.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise Misconfigured(
            f"{what}: cannot listen on {address}: {error.strerror or error}; give another {flag}"
        ) from error
    bound.setblocking(False)
    return bound


class Listener:
    """Accepts TLS connections; `era` is what new ones begin with."""

    def __init__(self, bound: socket.socket, connected: Connected) -> None:
        self.era = Era()
        self._socket = bound
        self._connected = connected
        self._pair: tuple[bytes, bytes] | None = None
        self._client_ca: str | None = None
        self._changed = asyncio.Event()

    def use_certificate(self, certificate: bytes, key: bytes) -> None:
        """Show this certificate (PEM) to new connections.

        Raises:
            Misconfigured: certificate and key do not fit each other, or are none.
        """
        server_tls(certificate, key, "")  # told now, to whoever brought it
        self._pair = certificate, key
        self._changed.set()

    def use_client_ca(self, client_ca: str) -> None:
        """Accept client certificates of these authorities (PEM); "" for none.

        Raises:
            Misconfigured: that is no PEM; what was accepted before is so still.
        """
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client_ca)
        self._client_ca = client_ca
        self._changed.set()

    async def run(self) -> None:
        """Accept until cancelled, from when certificate and client CA are known."""
        server: asyncio.Server | None = None
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._pair is None or self._client_ca is None:
                    continue
                era = Era(self.era.number + 1, self._client_ca)
                before, server = server, await self._server(server_tls(*self._pair, era.client_ca), era)
                if before is not None:
                    before.close()
                await server.start_serving()
                self.era = era
        finally:
            if server is not None:
                server.close()
            self._socket.close()

    async def _server(self, tls: ssl.SSLContext, era: Era) -> asyncio.Server:
        """One that does not serve yet: cancelled once it does, start_server would leave its socket open."""
        return await asyncio.start_server(
            partial(self._accepted, era),  # of its socket, not of the end of its handshake
            sock=self._socket.dup(),
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            start_serving=False,
        )

    def _accepted(self, era: Era, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No TCP_USER_TIMEOUT, which also ends a stream whose reader pauses, as `kubectl logs -f | less` does.
        keep_alive(writer.get_extra_info("socket"))
        self._connected(reader, writer, era)


class _Handshake(ssl.SSLObject):
    """Tells of clients whose certificate is not taken: their handshake fails before anybody could answer."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            log.warning("kubelet API client certificate refused", error=error.verify_message)
            raise


def server_tls(certificate: bytes, key: bytes, client_ca: str) -> ssl.SSLContext:
    """TLS that asks for a client certificate but does not insist; one of another authority ends the handshake.

    Raises:
        Misconfigured: certificate, key or CA cannot be used.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.sslobject_class = _Handshake
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["http/1.1"])  # upgrades are of HTTP/1.1
    # Every connection shows its certificate anew, so that none outlives a change of the CA.
    tls.num_tickets = 0
    tls.options |= ssl.OP_NO_TICKET
    try:
        load_pair(tls, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"certificate or key cannot be used: {error}") from error
    trust(tls, client_ca)
    return tls


def trust(tls: ssl.SSLContext, client_ca: str) -> None:
    """Ask for client certificates of these authorities (PEM); "" for none.

    Raises:
        Misconfigured: that is no PEM.
    """
    if not client_ca:
        return
    try:
        tls.load_verify_locations(cadata=client_ca)
    except (ssl.SSLError, ValueError, TypeError) as error:  # TypeError: it is no ASCII
        raise Misconfigured(f"client CA cannot be used: {error}") from error
    tls.verify_mode = ssl.CERT_OPTIONAL
