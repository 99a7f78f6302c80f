"""Trouble of the backend makes the node unready; it does not end the agent."""

import asyncio
from types import SimpleNamespace

import pytest

from overspill.agent.run import Agent
from overspill.errors import Misconfigured, OverspillError, Rejected, Retry

TROUBLES = (Retry, Rejected, Misconfigured, OverspillError)


def agent_of(backend) -> Agent:
    """An agent of which only what looks at its backend is used."""
    agent = Agent.__new__(Agent)
    agent._backend, agent._backend_listed = backend, asyncio.Event()
    agent._health_trouble = agent._list_trouble = ""
    agent._watch_trouble = lambda: None
    return agent


@pytest.mark.parametrize("kind", TROUBLES)
async def test_health_that_cannot_be_told_is_trouble_of_the_node(kind):
    troubles = [kind("no"), None]

    async def health():
        if error := troubles.pop(0):
            raise error

    agent = agent_of(SimpleNamespace(name="eci", health=health))
    assert await agent._trouble() == "backend eci: no"
    assert await agent._trouble() == ""


@pytest.mark.looptime
@pytest.mark.parametrize("kind", TROUBLES)
async def test_a_list_that_cannot_be_had_is_trouble_of_the_node_and_asked_for_again(kind):
    """Whatever the backend says of its health: without a list no pod is dealt with."""

    async def watch():
        await asyncio.Event().wait()
        yield ()

    async def health():
        pass

    refused = True

    async def relist():
        if refused:
            raise kind("no")

    agent = agent_of(SimpleNamespace(name="eci", watch=watch, health=health))
    agent._pods = SimpleNamespace(relist=relist)
    following = asyncio.ensure_future(agent._follow_backend())
    await asyncio.sleep(5)
    assert await agent._trouble() == "backend eci: no"
    refused = False
    async with asyncio.timeout(10):
        await agent._backend_listed.wait()
    assert await agent._trouble() == ""
    following.cancel()
