"""The watch against every nasty stream on record: the cache ends up as the server is."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from kube_server import serving
from nasty_streams import A1, B3, RECORDINGS, Listed, Refused, Stream, event, initial, pod, status

from overspill.errors import Misconfigured
from overspill.kube import watch as watch_module
from overspill.kube.cache import Cache
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.resources import PODS
from overspill.kube.watch import Watch
from overspill.metrics import REGISTRY
from overspill.model.pods import Pod


class Player:
    """An apiserver that plays a recording; afterwards its watches stay open and silent."""

    def __init__(self, replies):
        self.replies = list(replies)
        self.asked = []
        self.played = asyncio.Event()

    async def handle(self, request):
        if "watch" in request.query:
            self.asked.append(request.query.get("resourceVersion", ""))
        if not self.replies:
            self.played.set()
            return await self._stream(request, [], "hang")
        reply = self.replies.pop(0)
        if isinstance(reply, Refused):
            return web.json_response(reply.body, status=reply.code, headers=reply.headers)
        if isinstance(reply, Listed):
            meta = {"resourceVersion": str(reply.version), "continue": reply.next}
            return web.json_response({"metadata": meta, "items": reply.items})
        return await self._stream(request, reply.pieces, reply.end)

    async def _stream(self, request, pieces, end):
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if end == "hang":
            await asyncio.Event().wait()
        if end == "cut":
            request.transport.abort()
        return response


@pytest.fixture
async def serve():
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler):
            url = await stack.enter_async_context(serving(handler))
            config = Config(server=url, credentials=FileCredentials())
            return await stack.enter_async_context(Client(config))

        yield start


@pytest.mark.parametrize(("replies", "holds", "asked", "relists"), RECORDINGS.values(), ids=RECORDINGS.keys())
async def test_recording(serve, monkeypatch, replies, holds, asked, relists):
    if any(isinstance(reply, Stream) and reply.end == "hang" for reply in replies):
        monkeypatch.setattr(watch_module, "IDLE_LIMIT", 0.3)  # half-open connections are given up sooner
    before = REGISTRY.get_sample_value("overspill_watch_relists_total", {"resource": "pods"}) or 0
    player = Player(replies)
    client = await serve(player.handle)
    cache = Cache()
    watch = Watch(client, PODS, kind=Pod, keep=Pod.kept, tick=0)

    async def follow():
        async for batch in watch.batches():
            cache.apply(batch)

    task = asyncio.ensure_future(follow())
    async with asyncio.timeout(10):
        await player.played.wait()
    task.cancel()
    assert {pod.metadata.name: pod.metadata.resource_version for pod in cache.values()} == holds
    assert player.asked == asked
    assert (
        REGISTRY.get_sample_value("overspill_watch_relists_total", {"resource": "pods"}) - before == relists
    )
    assert cache.synced.is_set()


async def test_watch_tells_its_age(serve, monkeypatch):
    client = await serve(Player([]).handle)
    watch = Watch(client, PODS, kind=Pod)
    clock = watch_module.time.monotonic()
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock + 77)
    assert watch.age == pytest.approx(77, abs=1)


async def test_forbidden_ends_the_watch_and_names_verb_and_resource(serve):
    body = {
        "kind": "Status",
        "code": 403,
        "reason": "Forbidden",
        "message": 'pods is forbidden: User "x" cannot watch resource "pods" in API group "" at the cluster scope',
    }
    client = await serve(Player([Refused(403, body)]).handle)
    with pytest.raises(
        Misconfigured, match=r'cannot watch resource "pods".*grant verb "watch" on "pods".*RBAC'
    ):
        async for _ in Watch(client, PODS, kind=Pod).batches():
            pass


async def test_forbidden_for_a_moment_is_waited_out(serve):
    """An apiserver that has just started has not read its roles yet."""
    denied = status(
        403, "Forbidden", 'pods is forbidden: User "x" cannot watch resource "pods" in API group ""'
    )
    player = Player([Stream([initial(A1, version=1)]), Refused(403, denied), Stream([event("ADDED", B3)])])
    client = await serve(player.handle)
    cache = Cache()
    async with asyncio.timeout(10):
        async for batch in Watch(client, PODS, kind=Pod, tick=0).batches():
            cache.apply(batch)
            if len(cache) == 2:
                break
    assert player.asked[:3] == ["", "1", "1"]


async def test_forbidden_for_a_moment_is_waited_out_however_long_the_apiserver_was_away(serve, monkeypatch):
    denied = status(
        403, "Forbidden", 'pods is forbidden: User "x" cannot watch resource "pods" in API group ""'
    )
    player = Player([Stream([initial(A1, version=1)]), Refused(403, denied), Stream([event("ADDED", B3)])])
    client = await serve(player.handle)
    clock = lambda: time.monotonic() + 1000 * (len(player.asked) > 1)  # noqa: E731 - the watch's alone
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=clock))
    cache = Cache()
    async with asyncio.timeout(10):
        async for batch in Watch(client, PODS, kind=Pod, tick=0).batches():
            cache.apply(batch)
            if len(cache) == 2:
                break


async def test_a_server_that_hangs_up_at_once_is_not_stormed(serve, monkeypatch):
    """Each connection that brings nothing doubles the pause, up to a cap."""
    pauses = []
    monkeypatch.setattr(watch_module, "_pause", lambda fruitless: pauses.append(fruitless) or 0.0)
    player = Player([Stream([]) for _ in range(6)])
    client = await serve(player.handle)

    async def follow():
        async for _ in Watch(client, PODS, kind=Pod, tick=0).batches():
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow())
        await player.played.wait()
        task.cancel()
    assert pauses == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("fruitless", "least", "most"), [(0, 0, 0), (1, 0, 0), (2, 0.02, 0.06), (4, 0.09, 0.21), (99, 0.9, 2.1)]
)
def test_pause_grows_with_failures_in_a_row(fruitless, least, most):
    assert least <= watch_module._pause(fruitless) <= most


async def test_events_of_one_tick_are_one_batch(serve):
    events = [event("ADDED", pod(f"p{number}", number + 10)) for number in range(50)]
    player = Player([Stream([initial(A1, version=1), *events], end="hang")])
    client = await serve(player.handle)
    sizes = []
    async with asyncio.timeout(10):
        async for batch in Watch(client, PODS, kind=Pod, tick=0.2).batches():
            sizes.append(len(batch.changes))
            if sum(sizes) == 51:
                break
    assert len(sizes) < 10
