"""A Node that somebody deletes or declares lost comes back, whatever the apiserver says at first."""

import asyncio
import contextlib
import itertools
import json
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from kube_server import refusal, serving
from kube_server import status as status_of

from overspill import names
from overspill.agent import node as node_module
from overspill.agent.node import VirtualNode
from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.model.node import NodeProfile

NODE = "vn-0"
META = {"name": NODE, "uid": "u", "resourceVersion": "7"}
FORBIDDEN = 'nodes is forbidden: User "x" cannot create resource "nodes" in API group "" at the cluster scope'
NOT_HEARD = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
LIST_IS_WHOLE = {
    "type": "BOOKMARK",
    "object": {"metadata": {"resourceVersion": "6", "annotations": {"k8s.io/initial-events-end": "true"}}},
}


def event(happens, *, status=None, labels=None):
    metadata = {**META, "labels": labels or {}}
    return {"type": happens, "object": {"kind": "Node", "metadata": metadata, "status": status or {}}}


def lines(*events):
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


class World:
    """An apiserver where something happens to the Node once its status was told, and `then`; `refusals` come after that."""

    def __init__(self, happens, *, then=(), refusals=None, status=None, labels=None):
        self.event = event(happens, status=status, labels=labels)
        self.then = [event(each) for each in then]
        self.refusals = refusals or {}
        self.told, self.happened, self.told_again = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.log = []
        self.created, self.registered = None, asyncio.Event()

    async def answer(self, request):
        if "watch" in request.query:
            await self.watched(request)
        told = request.path.endswith("/status")
        self.log.append("status" if told else request.method)
        if request.method == "POST":
            self.created = await request.json()
            self.registered.set()
        refusals = self.refusals.get("status" if told else request.method)
        if self.happened.is_set() and refusals:
            return refusals.pop(0)
        if told:
            (self.told_again if self.happened.is_set() else self.told).set()
        return web.json_response({"kind": "Node", "metadata": META})

    async def watched(self, request):
        reply = web.StreamResponse()
        await reply.prepare(request)
        listed = [] if self.happened.is_set() else [event("ADDED")]
        await reply.write(lines(*listed, LIST_IS_WHOLE))
        if not self.happened.is_set():
            await self.told.wait()
            self.happened.set()
            await reply.write(lines(self.event, *self.then))
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(node_module, "REPAIR_AGAIN", 0.01)
    monkeypatch.setattr(node_module, "CHECK_EVERY", 0.01)


async def healthy():
    return ""


@contextlib.asynccontextmanager
async def running(world, *, check=healthy, clock=time.time):
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
        node = VirtualNode(
            client, profile, check=check, groups=lambda: 0, changed=lambda _: None, clock=clock
        )
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(20):
            yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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


async def test_one_that_was_to_go_is_registered_as_such():
    """Who deletes it in the middle of its drain takes nothing of that back."""
    world = World("MODIFIED", labels={names.DECOMMISSION_LABEL: "true"}, then=["DELETED"])
    async with running(world):
        await world.registered.wait()
    assert world.created["metadata"]["labels"][names.DECOMMISSION_LABEL] == "true"
    assert world.created["spec"]["unschedulable"]
    assert world.created["metadata"]["annotations"][names.CORDONED_ANNOTATION] == names.CORDONED_BY


async def test_a_node_that_was_declared_lost_says_soon_that_it_is_not():
    world = World("MODIFIED", status=NOT_HEARD)
    async with running(world):
        await world.told_again.wait()


async def test_a_node_that_was_deleted_while_nobody_could_watch_is_registered():
    world = World("ERROR")
    world.event["object"] = status_of(410, "Expired", "too old resource version")
    async with running(world):
        await world.told_again.wait()
    assert "POST" in world.log


async def test_a_refusal_to_write_the_node_ends_no_agent():
    refusals = {
        "POST": [refusal(401, "Unauthorized"), refusal(403, "Forbidden", "denied by a policy")],
        "status": [refusal(401, "Unauthorized"), refusal(403, "Forbidden", "denied by a policy")],
    }
    world = World("DELETED", refusals=refusals)
    async with running(world) as task:
        await world.told_again.wait()
        assert not task.done()
    assert refusals == {"POST": [], "status": []}


async def test_a_repair_that_is_refused_for_good_keeps_nothing_else_from_being_seen():
    always = SimpleNamespace(pop=lambda _: refusal(422, "Invalid", "denied by a policy"))
    world = World("MODIFIED", then=["DELETED"], refusals={"PATCH": always})
    async with running(world):
        await world.registered.wait()


async def test_a_refused_status_ends_no_agent_once_one_was_written():
    refusals = {"status": [refusal(401, "Unauthorized"), refusal(403, "Forbidden", "denied by a policy")]}
    world = World("MODIFIED", refusals=refusals, status=NOT_HEARD)
    async with running(world) as task:
        await world.told_again.wait()
        assert not task.done()


async def test_credentials_that_were_never_taken_end_a_start():
    world = World("MODIFIED", refusals={"status": [refusal(401, "Unauthorized")]})
    world.happened.set()
    async with running(world) as task:
        with pytest.raises(ExceptionGroup) as ended:
            await task
    assert ended.group_contains(Misconfigured, match="does not accept these credentials")


async def test_a_message_that_varies_is_not_told_at_every_check():
    world, now = World("MODIFIED"), 1000.0
    seconds, checked = itertools.count(), asyncio.Semaphore(0)

    async def away():
        checked.release()
        return f"away for {next(seconds)} s"

    async def checks(number):
        for _ in range(number):
            await checked.acquire()

    async with running(world, check=away, clock=lambda: now):
        await checks(50)
        assert world.log.count("status") == 1
        now += 2 * node_module.CHECK_EVERY
        await checks(50)
        assert world.log.count("status") == 2
