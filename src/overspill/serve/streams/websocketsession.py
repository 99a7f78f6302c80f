"""A remote command's streams as channels of a WebSocket.

Channels 0 to 2 are the descriptors of those numbers, 3 is the outcome, 4 the terminal's sizes. Only the
protocol's version 5 can end stdin. Source: k8s.io/cri-streaming/pkg/streaming/remotecommand (websocket.go)
"""

from overspill.serve.streams.channels import V5, Channels
from overspill.serve.streams.inbox import Inbox, Pool
from overspill.serve.streams.outcome import Outcome, as_status, as_text
from overspill.serve.streams.session import V4, Wanted
from overspill.serve.streams.wire import Wire

__all__ = ["PROTOCOLS", "WebSocketSession"]

PROTOCOLS = ("", "channel.k8s.io", "base64.channel.k8s.io", V4, "v4.base64.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)


class WebSocketSession:
    """A remote command over a WebSocket."""

    def __init__(self, wire: Wire, wanted: Wanted, *, protocol: str) -> None:
        self.wire = wire
        readable = {STDIN: wanted.stdin, RESIZE: wanted.tty}
        self._channels = Channels(
            wire,
            protocol=protocol,
            readable=frozenset(number for number, is_read in readable.items() if is_read),
        )
        self._writable = {STDOUT: wanted.stdout, STDERR: wanted.stderr, ERROR: True}
        self._as_status = protocol == V5 or protocol.startswith("v4.")
        self._finished = False
        self.stdin = self._inbox(STDIN)
        self.sizes = self._inbox(RESIZE)

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire."""
        return await self._channels.receive(data)

    async def ready(self) -> None:
        """There is nothing to wait for; say so on the lowest channel that we write to."""
        lowest = next(number for number, is_written in self._writable.items() if is_written)
        self._channels.send_now(lowest, b"")

    async def write(self, fd: int, data: bytes) -> None:
        """Send output."""
        if self._writable[fd]:
            await self._channels.write(fd, data)

    async def finish(self, outcome: Outcome) -> None:
        """Say how it ended; older protocols say nothing of success."""
        self._finished = True
        await self._channels.write(ERROR, self._report(outcome))
        for inbox in self._channels.inboxes.values():
            inbox.discard()

    def conclude(self) -> None:
        """Close the WebSocket."""
        self._channels.close()

    def abandon(self, reason: str) -> None:
        """Say why, then close the WebSocket."""
        if reason and not self._finished:
            self._channels.send_now(ERROR, self._report(Outcome(error=reason)))
        if reason:
            self._channels.close(reason)

    def _report(self, outcome: Outcome) -> bytes:
        return as_status(outcome) if self._as_status else as_text(outcome)

    def _inbox(self, channel: int) -> Inbox:
        found = self._channels.inboxes.get(channel)
        if found is None:
            found = Inbox(Pool())
            found.end()
        return found
