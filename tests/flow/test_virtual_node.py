"""A Node that somebody deletes comes back, whatever the apiserver says at first."""

import asyncio
import contextlib
import json

from aiohttp import web
from kube_server import refusal, serving

from overspill.agent import node as node_module
from overspill.agent.node import VirtualNode
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.model.node import NodeProfile

NODE = "vn-0"
FORBIDDEN = 'nodes is forbidden: User "x" cannot create resource "nodes" in API group "" at the cluster scope'


class World:
    """An apiserver that tells once that the Node was deleted, and has not read its roles when it is to be made."""

    def __init__(self):
        self.refusals = [
            refusal(403, "Forbidden", FORBIDDEN),
            refusal(503, "ServiceUnavailable", "etcd is away"),
        ]
        self.made = asyncio.Event()
        self.told = asyncio.Event()

    async def answer(self, request):
        meta = {"name": NODE, "uid": "u", "resourceVersion": "7"}
        if "watch" in request.query:
            reply = web.StreamResponse()
            await reply.prepare(request)
            known = {
                "metadata": {"resourceVersion": "6", "annotations": {"k8s.io/initial-events-end": "true"}}
            }
            gone = {"type": "DELETED", "object": {"kind": "Node", "metadata": meta}}
            for event in ({"type": "BOOKMARK", "object": known}, gone):
                await reply.write(json.dumps(event).encode() + b"\n")
            await asyncio.Event().wait()
        if request.method == "POST":
            if self.refusals:
                return self.refusals.pop(0)
            self.made.set()
        if request.method == "PATCH" and request.path.endswith("/status") and self.made.is_set():
            self.told.set()
        return web.json_response({"kind": "Node", "metadata": meta})


async def healthy():
    return ""


async def test_a_node_that_was_deleted_is_registered_as_soon_as_the_apiserver_lets_us(monkeypatch):
    monkeypatch.setattr(node_module, "REPAIR_AGAIN", 0.01)
    world = World()
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
        running = asyncio.create_task(node.run())
        async with asyncio.timeout(20):
            await world.told.wait()
        assert not running.done()
        assert world.refusals == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
