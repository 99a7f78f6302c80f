"""exec, attach and port-forward, over SPDY/3.1 and WebSocket.

In: a request's head and its connection. Out: `Process`es of the backend carried over it. Invariant:
whatever a client sends, at most its own connection ends, and its process with it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct

from overspill.backends.base import Process
from overspill.serve.request import Request
from overspill.serve.streams import portforward, remotecommand, websocketforwards, websocketsession
from overspill.serve.streams.channels import V5
from overspill.serve.streams.forwards import Forwards, SpdyForwards
from overspill.serve.streams.remotecommand import wanted
from overspill.serve.streams.session import V1, V2, V3, V4, Session, SpdySession, Wanted
from overspill.serve.streams.upgrade import Refusal, is_websocket, offered, refuse, upgrade
from overspill.serve.streams.websocketforwards import (
    TUNNEL,
    TunnelForwards,
    WebSocketForwards,
    requested_ports,
)
from overspill.serve.streams.websocketsession import WebSocketSession
from overspill.serve.streams.wire import Wire, converse

__all__ = ["Limits", "Wanted", "port_forward", "remote_command", "wanted"]

# Best first.
SPDY_COMMAND = (V4, V3, V2, V1)
SPDY_FORWARD = ("portforward.k8s.io",)


class Limits(Struct, frozen=True):
    """Bounds of a connection, in seconds, and whether the newest protocols are spoken.

    Attributes:
        idle: without a byte in either direction.
        creation: until all streams of a command, or both of a forwarded connection, are there.
        websocket_v5: speak `v5.channel.k8s.io` and the tunnel of port-forward, which apiservers send
            only to nodes that declare the feature ExtendWebSocketsToKubelet.
    """

    idle: float = 4 * 3600
    creation: float = 30.0
    websocket_v5: bool = False


async def remote_command(
    request: Request,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    wanted: Wanted,
    start: Callable[[], Awaitable[Process]],
    limits: Limits,
) -> None:
    """Serve one exec or attach (which, the path says) from the upgrade's answer to the connection's end.

    `start` is called once, when the client has set up all its streams; what it raises is told to the
    client. Raises nothing but cancellation.
    """
    wire = Wire(reader, writer, idle=limits.idle)
    try:
        session = _session(request, wire, wanted, limits)
    except Refusal as refusal:
        await _refused(wire, refusal)
        return
    attach = request.path.startswith("/attach/")
    work = partial(remotecommand.run, session, wanted, start=start, attach=attach)
    await converse(session, work, about=request.path)


async def port_forward(
    request: Request,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    connect: Callable[[int], Awaitable[Process]],
    limits: Limits,
    target: str,
) -> None:
    """Serve one port-forward from the upgrade's answer to the connection's end.

    `connect` is called for each connection that the client forwards; `target` names the pod in errors:
    "pod NAME, uid UID". Raises nothing but cancellation.
    """
    wire = Wire(reader, writer, idle=limits.idle)
    try:
        forwards = _forwards(request, wire, limits)
    except Refusal as refusal:
        await _refused(wire, refusal)
        return
    work = partial(portforward.run, forwards, connect=connect, target=target)
    await converse(forwards, work, about=request.path)


def _session(request: Request, wire: Wire, wanted: Wanted, limits: Limits) -> Session:
    """Agree on how a command's streams are carried, and say so."""
    newest = (V5,) if limits.websocket_v5 else ()
    agreed = upgrade(request, spdy=SPDY_COMMAND, websocket=(*newest, *websocketsession.PROTOCOLS))
    wire.push(agreed.answer)
    if is_websocket(request):
        return WebSocketSession(wire, wanted, protocol=agreed.protocol)
    return SpdySession(wire, wanted, protocol=agreed.protocol, creation=limits.creation)


def _forwards(request: Request, wire: Wire, limits: Limits) -> Forwards:
    """Agree on how forwarded connections are carried, and say so."""
    newest = (TUNNEL,) if limits.websocket_v5 else ()
    by_channels = is_websocket(request) and not set(newest) & set(offered(request, "sec-websocket-protocol"))
    ports = requested_ports(request) if by_channels else []
    agreed = upgrade(
        request, spdy=SPDY_FORWARD, websocket=websocketforwards.PROTOCOLS if by_channels else newest
    )
    wire.push(agreed.answer)
    if by_channels:
        return WebSocketForwards(wire, ports, protocol=agreed.protocol)
    kind = TunnelForwards if is_websocket(request) else SpdyForwards
    return kind(wire, creation=limits.creation)


async def _refused(wire: Wire, refusal: Refusal) -> None:
    wire.push(refuse(refusal))
    await wire.close()
