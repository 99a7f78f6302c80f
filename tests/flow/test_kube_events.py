"""Events: told without waiting, written once, grown as a series."""

import asyncio
import contextlib

from aiohttp import web
from kube_server import refusal, serving
from structlog.testing import capture_logs

from overspill.kube import events as events_module
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events, ObjectRef

POD = ObjectRef(kind="Pod", name="p", uid="u", namespace="ns", field_path="spec.containers{c}")
NODE = ObjectRef(kind="Node", name="n", uid="v")


class Apiserver:
    def __init__(self):
        self.requests = []
        self.refusals = []
        self.told = asyncio.Condition()

    async def handle(self, request):
        self.requests.append((request.method, request.path, await request.json()))
        refused = self.refusals.pop(0) if self.refusals else None
        async with self.told:
            self.told.notify_all()
        return refusal(refused) if refused else web.json_response({"metadata": {"name": "x"}})

    async def heard(self, number):
        async with self.told:
            await self.told.wait_for(lambda: len(self.requests) >= number)


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def telling(server, clock):
    async with (
        serving(server.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        events = Events(client, instance="node-0", clock=clock)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(events.run())
            yield events
            task.cancel()


async def test_an_event_is_what_kubectl_shows():
    server = Apiserver()
    async with telling(server, Clock()) as events:
        events.warning(POD, "Failed", "it failed")
        await server.heard(1)
    [(method, path, body)] = server.requests
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/ns/events")
    assert body.pop("metadata")["name"].startswith("p.")
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "1970-01-12T13:46:40.000000Z",
        "type": "Warning",
        "reason": "Failed",
        "note": "it failed",
        "action": "Failed",
        "regarding": {
            "kind": "Pod",
            "name": "p",
            "uid": "u",
            "namespace": "ns",
            "fieldPath": "spec.containers{c}",
        },
        "reportingController": "overspill.dev/overspill-agent",
        "reportingInstance": "node-0",
    }


async def test_events_of_a_node_are_in_default():
    server = Apiserver()
    async with telling(server, Clock()) as events:
        events.normal(NODE, "Starting", "hello")
        await server.heard(1)
    assert server.requests[0][1] == "/apis/events.k8s.io/v1/namespaces/default/events"


async def test_the_same_again_is_a_series_written_once_a_minute():
    server, clock = Apiserver(), Clock()
    async with telling(server, clock) as events:
        events.warning(POD, "BackOff", "again")
        await server.heard(1)
        for _ in range(100):
            clock.now += 0.1
            events.warning(POD, "BackOff", "again")
        events.warning(POD, "BackOff", "another thing")
        await server.heard(2)
        clock.now += 60
        events.warning(POD, "BackOff", "again")
        await server.heard(3)
    first, other, series = server.requests
    assert other[2]["note"] == "another thing"
    assert series[0] == "PATCH"
    assert series[1].endswith(first[2]["metadata"]["name"])
    assert series[2] == {"series": {"count": 102, "lastObservedTime": "1970-01-12T13:47:50.000000Z"}}


async def test_what_was_only_counted_is_swept_up(monkeypatch):
    monkeypatch.setattr(events_module, "SWEEP_EVERY", 0.01)
    server, clock = Apiserver(), Clock()
    async with telling(server, clock) as events:
        events.warning(POD, "BackOff", "again")
        await server.heard(1)
        events.warning(POD, "BackOff", "again")
        clock.now += 60
        await server.heard(2)
    assert server.requests[1][2]["series"]["count"] == 2


async def test_a_series_ends_after_a_while_of_quiet():
    server, clock = Apiserver(), Clock()
    async with telling(server, clock) as events:
        events.warning(POD, "BackOff", "again")
        await server.heard(1)
        clock.now += 400
        events.warning(POD, "BackOff", "again")
        await server.heard(2)
    assert [method for method, *_ in server.requests] == ["POST", "POST"]


async def test_a_series_that_the_apiserver_has_dropped_is_begun_again(monkeypatch):
    monkeypatch.setattr(events_module, "SWEEP_EVERY", 0.01)
    server, clock = Apiserver(), Clock()
    async with telling(server, clock) as events:
        events.warning(POD, "BackOff", "again")
        await server.heard(1)
        server.refusals = [404]
        clock.now += 100
        events.warning(POD, "BackOff", "again")
        await server.heard(3)
    assert [method for method, *_ in server.requests] == ["POST", "PATCH", "POST"]
    assert server.requests[2][2]["series"]["count"] == 2


async def test_a_burst_of_normal_events_is_cut_and_warnings_are_not():
    server = Apiserver()
    async with telling(server, Clock()) as events:
        for number in range(500):
            events.normal(POD, "Started", f"number {number}")
        for number in range(100):
            events.warning(POD, "Failed", f"number {number}")
        await server.heard(150)
    kinds = [body["type"] for _, _, body in server.requests]
    assert (kinds.count("Normal"), kinds.count("Warning")) == (50, 100)


async def test_an_apiserver_that_is_away_is_waited_for(monkeypatch):
    monkeypatch.setattr(events_module, "TRY_AGAIN_AFTER", 0.01)
    server = Apiserver()
    server.refusals = [500, 500]
    async with telling(server, Clock()) as events:
        events.warning(POD, "Failed", "it failed")
        await server.heard(3)
    assert len({body["metadata"]["name"] for _, _, body in server.requests}) == 1  # never two of one


async def test_a_namespace_that_goes_away_takes_its_events_and_nothing_else():
    server = Apiserver()
    server.refusals = [403]
    with capture_logs() as logs:
        async with telling(server, Clock()) as events:
            events.warning(POD, "Failed", "it failed")
            events.warning(NODE, "Other", "still told")
            await server.heard(2)
    assert [entry["event"] for entry in logs] == ["event not written"]
    assert logs[0]["object"] == "ns/p"


async def test_telling_never_fails_even_when_nobody_writes():
    async with (
        serving(Apiserver().handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        events = Events(client, instance="node-0")
        with capture_logs() as logs:
            for number in range(3000):
                events.warning(POD, "Failed", f"number {number} " + "é" * 2000)
    assert len(logs) == 1000  # 2,000 are remembered; each of the others is told in the log
    assert logs[0]["note"].startswith("number 0 ")
    assert len(logs[0]["note"].encode()) <= 1024
