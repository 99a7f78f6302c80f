"""What tests of pure functions share."""

import asyncio

import pytest


@pytest.fixture
def started(monkeypatch):
    """The programs that are started, in their order."""
    found = []
    start = asyncio.create_subprocess_exec

    async def noted(*argv, **how):
        found.append(await start(*argv, **how))
        return found[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return found
