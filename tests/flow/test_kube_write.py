"""The status writer against a small apiserver."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.errors import Retry
from overspill.kube.cache import Key
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.write import StatusWriter


def key(name="a", uid=""):
    return Key("ns", name, uid or f"uid-{name}")


class Apiserver:
    """Keeps the PATCHes; `refusals` are given before anything is taken, `gate` holds requests while it is closed."""

    def __init__(self):
        self.patches = []
        self.refusals = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_flight = self.most_in_flight = 0
        self.metadata = {}
        self.arrived, self.taken = asyncio.Event(), asyncio.Event()

    async def handle(self, request):
        name = request.path.split("/")[-2]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.arrived.set()
        body = await request.json()
        await self.gate.wait()
        self.in_flight -= 1
        if self.refusals:
            return refusal(*self.refusals.pop(0))
        self.patches.append((name, body["status"], body["metadata"]))
        self.taken.set()
        meta = {"resourceVersion": str(len(self.patches)), "generation": 1} | self.metadata
        return web.json_response({"kind": "PartialObjectMetadata", "metadata": meta})

    def statuses(self, name="a"):
        return [status["n"] for patched, status, _ in self.patches if patched == name]


@contextlib.asynccontextmanager
async def writing(server, **options):
    async with (
        serving(server.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        writer = StatusWriter(client, **options)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(writer.run())
            yield writer
            task.cancel()


def status(number):
    return json.dumps({"n": number}).encode()


async def test_one_patch_with_the_uid_and_no_version():
    server = Apiserver()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await writer.flush(key())
    assert server.patches == [("a", {"n": 1}, {"uid": "uid-a"})]


async def test_the_same_status_is_not_sent_twice():
    server = Apiserver()
    async with writing(server) as writer:
        for number in (1, 1, 2, 2, 1):
            writer.put(key(), status(number))
            await writer.flush(key())
    assert server.statuses() == [1, 2, 1]


async def test_the_newest_wins_and_one_is_in_flight():
    server = Apiserver()
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.arrived.wait()
        for number in (2, 3, 4):
            writer.put(key(), status(number))
        server.gate.set()
        await writer.flush(key())
    assert server.statuses() == [1, 4]
    assert server.most_in_flight == 1


async def test_back_to_what_is_in_flight_is_no_second_patch():
    server = Apiserver()
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.arrived.wait()
        writer.put(key(), status(2))
        writer.put(key(), status(1))
        server.gate.set()
        await writer.flush(key())
    assert server.statuses() == [1]


async def test_a_thousand_dirty_pods_are_written_by_a_few_workers():
    server = Apiserver()
    async with writing(server, workers=4) as writer:
        before = len(asyncio.all_tasks())
        keys = [key(f"p{number}") for number in range(1000)]
        for each in keys:
            writer.put(each, status(1))
        assert len(asyncio.all_tasks()) == before
        for each in keys:
            await writer.flush(each)
    assert len(server.patches) == 1000
    assert server.most_in_flight <= 4


FOR_NOW = [
    (500,),
    (429,),
    (403, "", 'cannot patch resource "pods/status"'),
    (403, "Forbidden", 'pods "a" is forbidden: not yet ready to handle request'),
]


@pytest.mark.parametrize("refused", FOR_NOW)
async def test_what_may_work_later_is_sent_again_with_the_newest(refused, monkeypatch):
    monkeypatch.setattr("overspill.kube.write.FORBIDDEN_PAUSE", 0.05)
    server = Apiserver()
    server.refusals = [refused]
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.arrived.wait()
        writer.put(key(), status(2))
        server.gate.set()
        await server.taken.wait()
    assert server.statuses() == [2]


@pytest.mark.parametrize("refused", FOR_NOW)
async def test_nobody_waits_for_a_status_that_cannot_be_written_now(refused):
    server = Apiserver()
    server.refusals = [refused]
    async with writing(server) as writer:
        writer.put(key(), status(1))
        for _ in range(2):
            with pytest.raises(Retry):
                await writer.flush(key())
            writer.put(key(), status(2))
    assert server.refusals == []
    assert server.patches == []


async def test_nobody_waits_for_long_for_an_answer(monkeypatch):
    monkeypatch.setattr("overspill.kube.write.ANSWERED_WITHIN", 0.05)
    server = Apiserver()
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        with pytest.raises(Retry):
            await writer.flush(key())
        server.gate.set()
        await server.taken.wait()
    assert server.statuses() == [1]


async def test_a_refused_status_is_sent_once_more_later(monkeypatch):
    """A policy or a webhook may have changed its mind."""
    monkeypatch.setattr("overspill.kube.write.REFUSED_PAUSE", 0.05)
    server = Apiserver()
    server.refusals = [(403, "Forbidden", "admission webhook denied the request")] * 2
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.taken.wait()
        await asyncio.sleep(0.15)
    assert server.statuses() == [1]


async def test_a_refused_status_does_not_come_back_after_another_one(monkeypatch):
    monkeypatch.setattr("overspill.kube.write.REFUSED_PAUSE", 0.05)
    server = Apiserver()
    server.refusals = [(422, "Invalid", "status.phase: Unsupported value")]
    async with writing(server) as writer:
        for number in (1, 2):
            writer.put(key(), status(number))
            await writer.flush(key())
        await asyncio.sleep(0.15)
    assert server.statuses() == [2]


async def test_a_refused_status_is_not_sent_again_but_another_is():
    server = Apiserver()
    server.refusals = [(422, "Invalid", "status.phase: Unsupported value")]
    async with writing(server) as writer:
        for number in (1, 1, 2):
            writer.put(key(), status(number))
            await writer.flush(key())
    assert server.statuses() == [2]
    assert server.refusals == []


@pytest.mark.parametrize("code", [404, 409])
async def test_a_pod_that_is_gone_is_forgotten(code):
    server = Apiserver()
    server.refusals = [(code,)]
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await writer.flush(key())
        assert not writer.is_echo(key(), "1")
    assert server.patches == []


async def test_forgetting_frees_those_who_wait():
    server = Apiserver()
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.arrived.wait()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(writer.flush(key()))
            await asyncio.sleep(0)
            writer.forget(key())
        assert waiting.done()
        server.gate.set()
        await writer.flush(key())


async def test_our_own_patch_is_known_when_it_comes_back():
    server = Apiserver()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await writer.flush(key())
        assert writer.is_echo(key(), "1")
        assert not writer.is_echo(key(), "2")
        assert not writer.is_echo(key(uid="another"), "1")
        assert not writer.is_echo(key("b"), "")


@pytest.mark.parametrize("change", [{"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"generation": 2}])
async def test_a_reply_that_shows_somebody_elses_change_is_no_echo(change):
    """A PATCH that changes nothing answers with the version of that other change, which is still to be seen."""
    server = Apiserver()
    async with writing(server) as writer:
        server.metadata = change
        writer.put(key(), status(1))
        await writer.flush(key())
        assert not writer.is_echo(key(), "1")


@pytest.mark.parametrize(("version", "sent"), [("1", [1]), ("2", [1, 1])])
async def test_what_somebody_writes_over_a_patch_in_flight_is_written_over_again(version, sent):
    """The PATCH makes version 1, which may be seen before its answer."""
    server = Apiserver()
    server.gate.clear()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await server.arrived.wait()
        writer.doubt(key(), version, listed=False)
        writer.put(key(), status(1))
        server.gate.set()
        await writer.flush(key())
    assert server.statuses() == sent


@pytest.mark.parametrize(
    ("version", "listed", "sent"), [("9", False, [1]), ("11", False, [1, 1]), ("9", True, [1, 1])]
)
async def test_a_doubted_status_is_sent_again_unless_ours_is_newer(version, listed, sent):
    server = Apiserver()
    server.metadata = {"resourceVersion": "10"}
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await writer.flush(key())
        server.metadata = {"resourceVersion": "12"}
        writer.doubt(key(), version, listed=listed)
        for _ in range(2):
            writer.put(key(), status(1))
            await writer.flush(key())
    assert server.statuses() == sent


async def test_the_answer_to_a_doubted_status_is_no_echo():
    """It may have been right, and the version then somebody else's, whose event is still to be seen."""
    server = Apiserver()
    async with writing(server) as writer:
        writer.put(key(), status(1))
        await writer.flush(key())
        writer.doubt(key(), "2", listed=False)
        writer.put(key(), status(1))
        await writer.flush(key())
        assert not writer.is_echo(key(), "2")


async def test_annotations_go_with_the_status_and_alone_are_a_change():
    server = Apiserver()
    async with writing(server) as writer:
        for annotations in ({}, {"price": "1"}, {"price": "1"}, {"price": "2"}):
            writer.put(key(), b'{"n":1}', annotations=annotations)
            await writer.flush(key())
    assert [metadata.get("annotations") for _, _, metadata in server.patches] == [
        None,
        {"price": "1"},
        {"price": "2"},
    ]
