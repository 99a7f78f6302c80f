"""What a client has sent on one stream and nobody has taken yet.

In: pieces, an end or a reset, from the connection's reading loop. Out: the same bytes to one taker, as
much at once as there is. Invariant: `put` never waits; whoever puts asks `full` and stops reading the
connection while it is true, because SPDY as Kubernetes speaks it has no other way to say "wait".
"""

import asyncio

from overspill.errors import Rejected

__all__ = ["Inbox", "Pool", "Reset"]

# kubectl's pings arrive behind stdin: a process that does not read is given this much before they are late.
STREAM_BOUND = 1 << 20
POOL_BOUND = 16 << 20
PIECE_COST = 64  # bytes that a piece takes beside its own


class Reset(Rejected):
    """The client wants no more of this stream, in either direction."""


class Pool:
    """What the inboxes of one connection hold together, and a bell for when something was taken."""

    __slots__ = ("_waiter", "held")

    def __init__(self) -> None:
        self.held = 0
        self._waiter: asyncio.Future[None] | None = None

    def release(self, size: int) -> None:
        """Note that `size` bytes are no longer held."""
        self.held -= size
        _ring(self._waiter)

    async def changed(self) -> None:
        """Return when something has been taken."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class Inbox:
    """Bytes on their way to one taker."""

    __slots__ = ("_discards", "_pieces", "_pool", "_reset", "_waiter", "_watcher", "ended", "held")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None  # of who takes
        self._watcher: asyncio.Future[None] | None = None  # … and of who only minds a reset
        self._reset = False
        self._discards = False
        self.held = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether no more should be read from the connection until something is taken."""
        return self.held > STREAM_BOUND or (bool(self.held) and self._pool.held > POOL_BOUND)

    def put(self, data: bytes) -> None:
        """Take in a piece; dropped when nobody wants it."""
        if not data or self.ended or self._discards:
            return
        self._pieces.append(data)
        self.held += len(data) + PIECE_COST
        self._pool.held += len(data) + PIECE_COST
        _ring(self._waiter)

    def end(self, *, reset: bool = False) -> None:
        """Nothing follows. After a reset what is here already is dropped, too."""
        self.ended = True
        if reset:
            self._reset = True
            self._empty()
            _ring(self._watcher)
        _ring(self._waiter)

    def discard(self) -> None:
        """Nobody will take anything: drop what is here and what comes."""
        self._discards = True
        self._empty()

    async def take(self) -> bytes:
        """All that is here, waiting for something to be; b"" at the end.

        Raises:
            Reset: the client gave the stream up.
        """
        while not self._pieces and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._reset:
            raise Reset("the client has reset the stream")
        return self._empty()

    async def watch(self) -> None:
        """Wait for a reset, which a taker that is busy with what it has taken would not notice.

        Raises:
            Reset: when it comes.
        """
        if not self._reset:
            self._watcher = asyncio.get_running_loop().create_future()
            await self._watcher
        raise Reset("the client has reset the stream")

    def _empty(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        held, self.held = self.held, 0
        if held:
            self._pool.release(held)
        return data


def _ring(waiter: asyncio.Future[None] | None) -> None:
    if waiter and not waiter.done():
        waiter.set_result(None)
