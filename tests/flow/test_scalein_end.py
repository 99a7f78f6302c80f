"""The last look of an agent that goes for good: its own watch may be late, and so may a scheduler be."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import msgspec
from aiohttp import web
from emulators import until
from kube_server import serving

from overspill.agent.scalein import ScaleIn
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.model.node import NodeMeta, NodeObject, NodeSpec
from overspill.model.scalein import half_done
from overspill.names import CORDONED_ANNOTATION, CORDONED_BY, DECOMMISSION_LABEL, DECOMMISSIONING

NODE = "vn-3"
POD = {
    "metadata": {
        "name": "late",
        "namespace": "default",
        "uid": "p",
        "deletionTimestamp": "2026-11-29T00:00:00Z",
    }
}


class World:
    """A marked node; `pods` are those that the apiserver has and the agent's watch has not told of yet."""

    name = "cloud"

    def __init__(self, pods):
        self.pods = pods
        self.cordoned = False
        self.said = []
        self.cache = SimpleNamespace(values=list, synced=asyncio.Event())
        self.cache.synced.set()
        self.groups = 0

    async def answer(self, request):
        self.said.append(f"{request.method} {request.path}")
        if request.path == "/api/v1/pods":
            assert self.cordoned
            items = [self.pods.pop()] if self.pods else []
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})
        if request.method == "PATCH" and request.path == f"/api/v1/nodes/{NODE}":
            self.cordoned = True
        meta = {"name": NODE, "labels": {DECOMMISSION_LABEL: ""}}
        return web.json_response({"metadata": meta, "spec": {"unschedulable": self.cordoned}})

    @property
    def found(self):
        return NodeObject(
            metadata=NodeMeta(name=NODE, labels={DECOMMISSION_LABEL: ""}),
            spec=NodeSpec(unschedulable=self.cordoned),
        )

    # --- what else an agent has ---

    def close(self, why):
        assert DECOMMISSION_LABEL in why

    async def relist(self):
        return []


async def test_a_node_goes_after_a_list_without_pods_that_was_taken_when_it_had_been_cordoned_for_a_while():
    world = World(pods=[POD, POD])
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(world.answer))
        client = await stack.enter_async_context(Client(Config(server=url, credentials=FileCredentials())))
        asked = asyncio.Event()
        asked.set()
        scale_in = ScaleIn(
            client,
            node=world,
            pods=world,
            events=Events(client, instance="test"),
            member=None,
            bare_pods="wait",
        )
        assert await scale_in.run(asked)
    assert world.pods == [], "each list that had a pod was followed by another"
    assert world.said.count("GET /api/v1/pods") == 3


class Wanted:
    """A node that is to stay, and what a controller that is late does to it."""

    groups = 0

    def __init__(self):
        self.node = {"metadata": {"name": NODE, "resourceVersion": "1"}, "spec": {}, "status": {}}
        self.events = []

    def is_cordoned(self):
        self.node["metadata"]["annotations"] = {CORDONED_ANNOTATION: CORDONED_BY}
        self.node["spec"]["unschedulable"] = True

    def is_told(self):
        self.node["status"]["conditions"] = [{"type": DECOMMISSIONING, "status": "True", "message": "goes"}]

    async def answer(self, request):
        if request.method == "POST":
            self.events.append((await request.json())["reason"])
        elif request.method == "PATCH" and request.path.endswith("/status"):
            assert (await request.json())["status"]["conditions"][0]["$patch"] == "delete"
            self.node["status"] = {}
        elif request.method == "PATCH":
            assert json.loads(await request.text())["spec"] == {"unschedulable": None}
            self.node["metadata"]["annotations"], self.node["spec"] = {}, {}
        return web.json_response(self.node)

    @property
    def found(self):
        return msgspec.convert(self.node, NodeObject)

    async def is_right(self):
        return not half_done(self.found)


async def test_a_cordon_and_a_condition_that_come_after_the_start_are_undone_while_the_node_is_wanted():
    world = Wanted()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(world.answer))
        client = await stack.enter_async_context(Client(Config(server=url, credentials=FileCredentials())))
        events = Events(client, instance="test")
        scale_in = ScaleIn(client, node=world, pods=world, events=events, member=None, bare_pods="wait")
        asked = asyncio.Event()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        writing = tasks.create_task(events.run())
        running = tasks.create_task(scale_in.run(asked))
        for happens in (world.is_told, world.is_cordoned):
            await asyncio.sleep(0)
            happens()
            await until(world.is_right, "the node to be set right")
        asked.set()
        assert await running is False
        writing.cancel()
    assert world.events.count("DecommissionCancelled") == len(world.events) > 0
