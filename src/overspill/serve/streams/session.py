"""A remote command's streams, whatever carries them.

`Session` is what `remotecommand` works on; `SpdySession` is its SPDY form. Invariant of every session:
`finish` is called once, and nothing is written thereafter.
"""

import asyncio
from typing import Protocol

from msgspec import Struct

from overspill.errors import Rejected
from overspill.serve.streams.connection import Connection, Stream
from overspill.serve.streams.inbox import Inbox, Pool
from overspill.serve.streams.outcome import Outcome, as_status, as_text
from overspill.serve.streams.wire import Conversation, Wire

__all__ = ["V1", "V2", "V3", "V4", "Session", "SpdySession", "Wanted"]

V1, V2, V3, V4 = "channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"
STREAM_TYPES = frozenset({"error", "stdin", "stdout", "stderr", "resize"})


class Wanted(Struct, frozen=True):
    """The streams that a client asks for; with a terminal, stderr is part of stdout."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


class Session(Conversation, Protocol):
    """The streams of one remote command."""

    stdin: Inbox
    sizes: Inbox

    async def ready(self) -> None:
        """Return when the client has set up all that it wants.

        Raises:
            Rejected: it did not, in time.
        """

    async def write(self, fd: int, data: bytes) -> None:
        """Send to the client's stdout (1) or stderr (2), waiting while it is slow."""

    async def finish(self, outcome: Outcome) -> None:
        """End the output and say how the command ended."""


class SpdySession:
    """A remote command over SPDY."""

    def __init__(self, wire: Wire, wanted: Wanted, *, protocol: str, creation: float) -> None:
        self.wire = wire
        self._connection = Connection(wire, accept=self._accept)
        self._creation = creation
        self._protocol = protocol
        self._expected = _expected(wanted, resizable=protocol in {V3, V4})
        self._streams: dict[str, Stream] = {}
        self._complete = asyncio.Event()
        self._finished = False
        nothing = Inbox(Pool())
        nothing.end()
        self.stdin = self.sizes = nothing

    async def receive(self, data: bytes) -> bool:
        """Take in bytes of the wire."""
        return await self._connection.receive(data)

    async def ready(self) -> None:
        """Wait for the streams."""
        try:
            async with asyncio.timeout(self._creation):
                await self._complete.wait()
        except TimeoutError:
            missing = ", ".join(sorted(self._expected - self._streams.keys()))
            raise Rejected(f"timed out waiting for client to create streams: {missing}") from None
        if self._protocol == V1 and "stdin" in self._streams:
            self._streams["stdin"].finish()  # clients of version 1 wait for it

    async def write(self, fd: int, data: bytes) -> None:
        """Send output."""
        stream = self._streams.get("stdout" if fd == 1 else "stderr")
        if stream is not None:
            await stream.write(data)

    async def finish(self, outcome: Outcome) -> None:
        """Send FIN on the output, then the outcome and FIN on the error stream, then on the rest."""
        self._finished = True
        for kind in ("stdout", "stderr"):
            if kind in self._streams:
                self._streams[kind].finish()
        if "error" in self._streams:
            await self._streams["error"].write(self._report(outcome))
            self._streams["error"].finish()
        for stream in self._streams.values():
            stream.inbox.discard()
            stream.finish()

    def conclude(self) -> None:
        """All has been said with the streams' ends."""

    def abandon(self, reason: str) -> None:
        """Say why, for an empty error stream would read as success; then reset and go."""
        if not reason:
            return
        error = self._streams.get("error")
        if error is not None and not self._finished:
            error.send_now(self._report(Outcome(error=reason)))
            error.finish()
        self._connection.abandon()

    def _report(self, outcome: Outcome) -> bytes:
        return as_status(outcome) if self._protocol == V4 else as_text(outcome)

    def _accept(self, stream: Stream) -> str:
        kind = stream.headers.get("streamtype", "")
        if kind not in STREAM_TYPES:
            return f"unexpected stream type {kind!r}"
        if kind in self._streams:
            return f"a second stream of type {kind}"
        self._streams[kind] = stream
        if kind not in self._expected or kind not in {"stdin", "resize"}:
            stream.inbox.discard()
        elif kind == "stdin":
            self.stdin = stream.inbox
        else:
            self.sizes = stream.inbox
        if self._expected <= self._streams.keys():
            self._complete.set()
        return ""


def _expected(wanted: Wanted, *, resizable: bool) -> frozenset[str]:
    asked = {
        "error": True,
        "stdin": wanted.stdin,
        "stdout": wanted.stdout,
        "stderr": wanted.stderr,
        "resize": wanted.tty and resizable,
    }
    return frozenset(kind for kind, is_asked in asked.items() if is_asked)
