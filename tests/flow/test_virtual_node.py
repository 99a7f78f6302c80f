"""A Node that somebody deletes or declares lost comes back, whatever the apiserver says at first."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.agent import node as node_module
from overspill.agent.node import VirtualNode
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.model.node import NodeProfile

NODE = "vn-0"
META = {"name": NODE, "uid": "u", "resourceVersion": "7"}
FORBIDDEN = 'nodes is forbidden: User "x" cannot create resource "nodes" in API group "" at the cluster scope'


class World:
    """An apiserver where something happens to the Node once its status was told; `refusals` come after that."""

    def __init__(self, happens, *, refusals=None, status=None):
        self.event = {"type": happens, "object": {"kind": "Node", "metadata": META, "status": status or {}}}
        self.refusals = refusals or {}
        self.told, self.happened, self.told_again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(self, request):
        if "watch" in request.query:
            await self.watched(request)
        told = request.path.endswith("/status")
        refusals = self.refusals.get("status" if told else request.method)
        if self.happened.is_set() and refusals:
            return refusals.pop(0)
        if told:
            (self.told_again if self.happened.is_set() else self.told).set()
        return web.json_response({"kind": "Node", "metadata": META})

    async def watched(self, request):
        reply = web.StreamResponse()
        await reply.prepare(request)
        known = {"metadata": {"resourceVersion": "6", "annotations": {"k8s.io/initial-events-end": "true"}}}
        await reply.write(json.dumps({"type": "BOOKMARK", "object": known}).encode() + b"\n")
        await self.told.wait()
        self.happened.set()
        await reply.write(json.dumps(self.event).encode() + b"\n")
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(node_module, "REPAIR_AGAIN", 0.01)
    monkeypatch.setattr(node_module, "CHECK_EVERY", 0.01)


@contextlib.asynccontextmanager
async def running(world):
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(world.answer))
        client = await stack.enter_async_context(Client(Config(server=url, credentials=FileCredentials())))
        profile = NodeProfile(
            name=NODE,
            ip="127.0.0.1",
            backend="simulated",
            kubernetes_version="v1.37.0",
            capacity={"pods": "1"},
        )
        node = VirtualNode(client, profile, check=healthy, groups=lambda: 0, changed=lambda _: None)
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(20):
            yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def healthy():
    return ""


async def test_a_node_that_was_deleted_is_registered_as_soon_as_the_apiserver_lets_us():
    refusals = {
        "POST": [refusal(403, "Forbidden", FORBIDDEN), refusal(503, "ServiceUnavailable", "etcd is away")],
        "status": [refusal(404, "NotFound", "deleted once more")],
    }
    world = World("DELETED", refusals=refusals)
    async with running(world) as task:
        await world.told_again.wait()
        assert not task.done()
    assert refusals == {"POST": [], "status": []}


async def test_a_node_that_was_declared_lost_says_soon_that_it_is_not():
    world = World("MODIFIED", status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    async with running(world):
        await world.told_again.wait()
