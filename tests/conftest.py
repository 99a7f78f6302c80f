"""What all tests share."""

import asyncio


def pytest_sessionstart():
    """Without this, looptime's plugin makes an event loop for the first plain test, and nobody closes it."""
    asyncio.set_event_loop(None)
