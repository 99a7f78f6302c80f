"""Leader election by a Lease, against a small apiserver, with short times."""

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.errors import Misconfigured, Retry
from overspill.kube import leader as leaders
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.leader import Leader, Vacancy
from overspill.metrics import REGISTRY, exposition


class Leases:
    """One Lease, guarded by its resourceVersion as the apiserver does it."""

    def __init__(self):
        self.stored = None
        self.version = 0
        self.away = asyncio.Event()
        self.forbidden = False
        self.read = None  # called before each answer to a GET
        self.refused = asyncio.Semaphore(0)
        self.changed = asyncio.Condition()

    async def handle(self, request):
        if self.forbidden:
            self.refused.release()
            return refusal(
                403, "Forbidden", 'User "x" cannot get resource "leases" in API group "coordination.k8s.io"'
            )
        if self.away.is_set():
            return refusal(500, "InternalError")
        body = await request.json() if request.can_read_body else {}
        if request.method == "GET" and self.read is not None:
            await self.read()
        if request.method == "GET":
            return web.json_response(self.stored) if self.stored else refusal(404, "NotFound")
        if request.method == "POST" and self.stored:
            return refusal(409, "AlreadyExists")
        have = self.stored["metadata"]["resourceVersion"] if self.stored else None
        if request.method == "PUT" and body["metadata"].get("resourceVersion") != have:
            return refusal(409, "Conflict")
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.stored = body
        async with self.changed:
            self.changed.notify_all()
        return web.json_response(body)

    @property
    def spec(self):
        return self.stored["spec"]

    async def until(self, check):
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(check)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    for name, seconds in {"LEASE_DURATION": 1.0, "RENEW_DEADLINE": 0.6, "RETRY_PERIOD": 0.1}.items():
        monkeypatch.setattr(leaders, name, seconds)


@pytest.fixture
def patient(monkeypatch):
    """Where no Lease is to be lost, however long this process stands still."""
    monkeypatch.setattr(leaders, "RENEW_DEADLINE", 10.0)


@pytest.fixture
def leases():
    return Leases()


@pytest.fixture
async def client(leases):
    async with (
        serving(leases.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        yield client


class Replica:
    """A candidate, and whether its work runs."""

    def __init__(self, client, identity, **how):
        self.leader = Leader(client, "controller", namespace="kube-system", identity=identity, **how)
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def work(self):
        self.begun.set()
        self.ended.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.begun.clear()
            self.ended.set()


@contextlib.asynccontextmanager
async def running(*replicas):
    tasks = [asyncio.ensure_future(each.leader.run(each.work)) for each in replicas]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait(event):
    async with asyncio.timeout(20):
        await event.wait()


async def test_a_series_tells_who_leads(client):
    only = Replica(client, "a")
    labels = {"name": "controller"}
    assert REGISTRY.get_sample_value("leader_election_master_status", labels) == 0
    async with running(only):
        await wait(only.begun)
        assert REGISTRY.get_sample_value("leader_election_master_status", labels) == 1
        assert b'leader_election_master_status{name="controller"} 1.0' in exposition()
    assert REGISTRY.get_sample_value("leader_election_master_status", labels) == 0


async def test_the_first_leads_and_the_lease_is_what_kubectl_shows(client, leases, patient):
    first = Replica(client, "a")
    async with running(first):
        await wait(first.begun)
        assert first.leader.sure
        spec = leases.spec
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 1, 0)
        acquired = spec["acquireTime"]
        await leases.until(lambda: leases.version >= 3)
        assert leases.spec["acquireTime"] == acquired < leases.spec["renewTime"]


async def test_a_second_waits_and_takes_over_at_once_when_the_first_goes(
    client, leases, patient, monkeypatch
):
    """A renewal is under way when it goes: stored, and not answered yet."""
    monkeypatch.setattr(leaders, "LEASE_DURATION", 600.0)
    first, second = Replica(client, "a"), Replica(client, "b")
    async with running(first) as tasks:
        await wait(first.begun)
        async with running(second):
            await leases.until(lambda: leases.version >= 4)
            assert not second.begun.is_set()
            tasks[0].cancel()
            await wait(second.begun)
            assert first.ended.is_set()
            assert leases.spec["holderIdentity"] == "b"
            assert leases.spec["leaseTransitions"] == 1


async def test_a_silent_holder_is_waited_out_by_the_waiters_own_clock(client, leases):
    leases.stored = {
        "metadata": {"name": "controller", "resourceVersion": "0"},
        "spec": {
            "holderIdentity": "dead",
            "leaseDurationSeconds": 1,
            "renewTime": "2001-01-01T00:00:00.000000Z",  # by a clock that is years behind
            "leaseTransitions": 4,
        },
    }
    replica = Replica(client, "a")
    began = time.monotonic()
    async with running(replica):
        await wait(replica.begun)
        assert time.monotonic() - began >= 1.0
        assert leases.spec["leaseTransitions"] == 5


async def test_a_leader_stays_it_however_long_reading_the_lease_takes(client, leases):
    async def slow():
        await asyncio.sleep(0.58)  # nearly as long as a renewal is good for

    leases.read = slow
    first = Replica(client, "a")
    async with running(first):
        await first.begun.wait()
        taken = leases.version
        await leases.until(lambda: leases.version >= taken + 5)
        assert not first.ended.is_set()


async def test_a_renewal_counts_from_when_it_was_read(client, leases):
    now = 0.0

    async def slow():
        nonlocal now
        now += 1.5

    leases.read = slow
    async with running(Replica(client, "a")):
        await leases.until(lambda: leases.stored)
    leases.stored["spec"] |= {"holderIdentity": "a", "leaseDurationSeconds": 1}
    watcher = Vacancy(client, "controller", namespace="kube-system", clock=lambda: now)
    assert not await watcher.look()
    assert not await watcher.look()  # it may have been renewed just before the first answer
    assert await watcher.look()


async def test_work_stops_before_another_may_begin(client, leases):
    replica = Replica(client, "a")
    async with running(replica):
        await wait(replica.begun)
        leases.away.set()
        await wait(replica.ended)
        assert not replica.leader.leads
        leases.away.clear()
        await wait(replica.begun)


async def test_a_process_that_was_stopped_for_a_while_is_not_sure(client, leases):
    skipped = 0.0
    replica = Replica(client, "a", clock=lambda: time.monotonic() + skipped)
    async with running(replica):
        await wait(replica.begun)
        skipped = 60.0
        assert replica.leader.leads
        assert not replica.leader.sure
        await wait(replica.ended)


async def test_a_lease_taken_by_another_ends_the_work(client, leases):
    replica = Replica(client, "a")
    async with running(replica):
        await wait(replica.begun)
        leases.version += 1
        taken = {**leases.spec, "holderIdentity": "b", "leaseTransitions": 9}
        leases.stored = {
            "metadata": {"name": "controller", "resourceVersion": str(leases.version)},
            "spec": taken,
        }
        await wait(replica.ended)
        assert leases.spec["holderIdentity"] == "b"


async def test_missing_permission_is_told(client, leases):
    leases.forbidden = True
    with pytest.raises(Misconfigured, match="leases"):
        await Replica(client, "a").leader.run(asyncio.Event().wait)


async def test_an_apiserver_that_has_not_read_its_roles_yet_is_asked_again(client, leases):
    first = Replica(client, "a")
    async with running(first) as tasks:
        await wait(first.begun)
        leases.forbidden = True
        await wait(first.ended)
        leases.forbidden = False
        await wait(first.begun)
        assert not tasks[0].done()


async def test_who_only_looks_waits_for_roles_as_well(client, leases):
    vacancy = Vacancy(client, "controller", namespace="kube-system")
    leases.forbidden = True
    with pytest.raises(Misconfigured):
        await vacancy.look()
    leases.forbidden = False
    await vacancy.look()
    leases.forbidden = True
    with pytest.raises(Retry):
        await vacancy.look()


async def test_roles_are_waited_for_however_long_the_apiserver_was_away(client, leases):
    now = [0.0]
    vacancy = Vacancy(client, "controller", namespace="kube-system", clock=lambda: now[0])
    await vacancy.look()
    leases.forbidden = True
    for now[0] in (1000.0, 1059.0):
        with pytest.raises(Retry):
            await vacancy.look()
    now[0] = 1061.0
    with pytest.raises(Misconfigured):
        await vacancy.look()


async def test_a_leader_waits_for_roles_however_long_the_apiserver_was_away(client, leases):
    later = [0.0]
    leader = Leader(
        client, "controller", namespace="kube-system", identity="a", clock=lambda: time.monotonic() + later[0]
    )
    begun, again = asyncio.Event(), asyncio.Event()

    async def work():
        (again if begun.is_set() else begun).set()
        await asyncio.Event().wait()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(leader.run(work))
        await begun.wait()
        leases.forbidden, later[0] = True, 1000.0
        for _ in ("giving it back", "taking it again"):
            await leases.refused.acquire()
        leases.forbidden = False
        await again.wait()
        task.cancel()


async def test_an_error_of_the_work_ends_it_and_gives_the_lease_back(client, leases):
    async def fail():
        raise Misconfigured("cannot go on")

    with pytest.raises(ExceptionGroup) as caught:
        await Leader(client, "controller", namespace="kube-system", identity="a").run(fail)
    assert caught.group_contains(Misconfigured, match="cannot go on")
    assert leases.spec["holderIdentity"] == ""
