"""Ends connections whose other side may have ceased to read.

In: a stream's writer. Invariant: it ends within `FLUSH` seconds, whatever is still to be sent: a transport that
was closed waits for ever for a peer that takes nothing.
"""

import asyncio

__all__ = ["let_go"]

FLUSH = 5.0  # seconds that a closing connection has to send what is left


async def let_go(writer: asyncio.StreamWriter) -> None:
    """Close, and forget what cannot be sent in a few seconds."""
    writer.close()
    try:
        async with asyncio.timeout(FLUSH):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass  # gone before, or does not read
    finally:
        writer.transport.abort()
