"""The assigner as a whole, against a small apiserver: what it makes of what the watches bring."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from kube_server import serving

import placing
from overspill import names
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.placement.assigner import Assigner


class World:
    """An apiserver that keeps what is asked of it, and an assigner that is told of objects.

    Attributes:
        answer: what a patch of a pod gets; None for success.
    """

    def __init__(self):
        self.patches = []
        self.answer = lambda _patch: None
        self._arrived = asyncio.Event()
        self._running = None

    async def handle(self, request):
        body = await request.json() if request.can_read_body else None
        answer = None
        if request.method == "PATCH" and "/pods/" in request.path:
            patch = {each["path"]: each.get("value") for each in body} | {"name": request.path.split("/")[-1]}
            self.patches.append(patch)
            answer = self.answer(patch)
        self._arrived.set()
        return answer or web.json_response({"metadata": {}})

    def policies(self, *policies, kind="MODIFIED"):
        self.assigner.policies_changed(Batch(replace=False, changes=[Change(kind, each) for each in policies]))

    def pods(self, *pods, kind="MODIFIED"):
        self.assigner.pods_changed(Batch(replace=False, changes=[Change(kind, each) for each in pods]))

    def nodes(self, *nodes, kind="MODIFIED"):
        self.assigner.nodes_changed(Batch(replace=False, changes=[Change(kind, each) for each in nodes]))

    def lead(self):
        self._running = asyncio.ensure_future(self.assigner.run())

    async def stop(self):
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def until(self, holds):
        async with asyncio.timeout(20):
            while not holds():
                self._arrived.clear()
                await self._arrived.wait()

    def patched(self):
        """Names of the pods that were patched."""
        return [patch["name"] for patch in self.patches]


@pytest.fixture
async def world():
    made = World()
    async with (
        serving(made.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        made.assigner = Assigner(client, Events(client, instance="test"), sure=lambda: True)
        yield made
        await made.stop()


WEB_1 = {names.TEMPLATE_HASH: "1"}  # its ReplicaSet is web-1


def gated(name, **fields):
    return placing.gated(name, labels=WEB_1, **fields)


def placed(name, pool, rank, *, labels=None, **fields):
    return placing.placed(name, pool, rank, labels={**WEB_1, **(labels or {})}, **fields)


def policy_of(world, name):
    managed = world.assigner.managed_of(name)
    return managed and managed.policy.metadata.name


async def test_pods_of_a_policy_that_goes_are_the_next_ones(world):
    older = placing.policy(name="older", created="2026-01-01T00:00:00Z")
    younger = placing.policy(name="younger", created="2026-01-02T00:00:00Z")
    world.policies(older, younger)
    world.pods(placed("p", "base", 1, labels={names.POLICY_LABEL: "older"}))
    assert policy_of(world, "p") == "older"
    world.policies(older, kind="DELETED")
    assert policy_of(world, "p") == "younger"
    world.lead()
    await world.until(lambda: world.patches)
    assert world.patches[0]["/metadata/labels/placement.overspill.dev~1policy"] == "younger"
