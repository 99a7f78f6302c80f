"""Forwarded connections over WebSocket: as pairs of channels, or as SPDY in a tunnel.

The n-th requested port has the channels 2n for data and 2n+1 for errors, both of which begin with the
port's number; a port is one connection. The tunnel carries SPDY's bytes in binary messages.
Source: k8s.io/cri-streaming/pkg/streaming/portforward (websocket.go), apiserver/pkg/util/proxy (streamtunnel.go)
"""

from collections.abc import Iterator, Sequence

from overspill.serve.request import Request
from overspill.serve.streams.channels import Channels
from overspill.serve.streams.forwards import Forward, SpdyForwards, port_number
from overspill.serve.streams.upgrade import Refusal
from overspill.serve.streams.websocket import WebSocket
from overspill.serve.streams.wire import Wire

__all__ = ["PROTOCOLS", "TUNNEL", "TunnelForwards", "WebSocketForwards", "requested_ports"]

PROTOCOLS = ("", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")
TUNNEL = "SPDY/3.1+portforward.k8s.io"
MOST_PORTS = 127  # a channel's number is a byte


def requested_ports(request: Request) -> list[int]:
    """The ports of the query, repeated or separated by commas.

    Raises:
        Refusal: there is none, or one is no port.
    """
    texts = [text for value in request.query.get("port", ()) for text in value.split(",")]
    if not texts:
        raise Refusal('query parameter "port" is required')
    ports = [_port(text) for text in texts]
    if len(ports) > MOST_PORTS:
        raise Refusal(f"{len(ports)} ports, more than the {MOST_PORTS} that one WebSocket can carry")
    return ports


def _port(text: str) -> int:
    if not text:
        raise Refusal('query parameter "port" cannot be empty')
    port = port_number(text)
    if port:
        return port
    raise Refusal(f'port "{text}" must be > 0' if text == "0" else f'unable to parse "{text}" as a port')


class _ChannelForward:
    """A port's two channels."""

    def __init__(self, channels: Channels, number: int, port: int) -> None:
        self._channels = channels
        self._number = number
        self.port = port
        self.inbox = channels.inboxes[number]
        for channel in (number, number + 1):
            channels.send_now(channel, port.to_bytes(2, "little"))

    async def write(self, data: bytes) -> None:
        await self._channels.write(self._number, data)

    async def finish(self, error: str) -> None:
        self.inbox.discard()
        await self._channels.write(self._number + 1, error.encode())


class WebSocketForwards:
    """Port-forwarding over channels: one connection to each port, at once."""

    def __init__(self, wire: Wire, ports: Sequence[int], *, protocol: str) -> None:
        self.wire = wire
        numbers = range(0, 2 * len(ports), 2)
        self._channels = Channels(wire, protocol=protocol, readable=frozenset(numbers))
        made = [_ChannelForward(self._channels, *pair) for pair in zip(numbers, ports, strict=True)]
        self._forwards: Iterator[Forward] = iter(made)

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire."""
        return await self._channels.receive(data)

    async def next(self) -> Forward | None:
        """The next port."""
        return next(self._forwards, None)

    def conclude(self) -> None:
        """Every connection has ended."""
        self._channels.close()

    def abandon(self, reason: str) -> None:
        """Close the WebSocket."""
        if reason:
            self._channels.close(reason)


class _Tunnel:
    """A sink that puts each write into a message."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.socket = WebSocket(wire.push)

    def push(self, data: bytes) -> None:
        self._wire.push(self.socket.message(data))

    async def send(self, data: bytes) -> None:
        await self._wire.send(self.socket.message(data))


class TunnelForwards(SpdyForwards):
    """Port-forwarding over SPDY in a WebSocket."""

    def __init__(self, wire: Wire, *, creation: float) -> None:
        self._tunnel = _Tunnel(wire)
        super().__init__(wire, sink=self._tunnel, creation=creation)

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire."""
        for piece in self._tunnel.socket.feed(data):
            if not await super().receive(piece.data):
                return False
        return not self._tunnel.socket.closed

    def abandon(self, reason: str) -> None:
        """Reset everything and close the WebSocket."""
        super().abandon(reason)
        self._tunnel.socket.close()
