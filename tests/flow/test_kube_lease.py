"""One node, one agent: the Lease against a small apiserver with resourceVersions."""

import asyncio
import contextlib
import datetime as dt
import os

import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.errors import Misconfigured
from overspill.kube import lease as lease_module
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.lease import NodeLease
from overspill.names import HOLDER_ANNOTATION

PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Leases:
    """One Lease, guarded by its resourceVersion as the apiserver does it."""

    def __init__(self):
        self.stored = None
        self.version = 0
        self.log = []
        self.lose_replies = 0
        self.away = 0
        self.slow = 0.0
        self.late = False  # a renewal comes right after the next GET
        self.written = asyncio.Condition()

    async def handle(self, request):
        self.log.append(request.method)
        await asyncio.sleep(self.slow)
        if self.away and not self.lose_replies:
            self.away -= 1
            return refusal(503, "ServiceUnavailable", "etcd is away")
        body = await request.json() if request.can_read_body else {}
        answer = self._answer(request, body)
        if self.late and request.method == "GET":
            self.late = False
            self._store(self.stored)
        async with self.written:
            self.written.notify_all()
        if request.method != "GET" and self.lose_replies:
            self.lose_replies -= 1
            request.transport.abort()
        return answer

    def _answer(self, request, body):
        if request.method == "POST":
            if self.stored:
                return refusal(409, "AlreadyExists")
            return self._store(body)
        if self.stored is None:
            return refusal(404, "NotFound")
        if request.method == "GET":
            return web.json_response(self.stored)
        if body["metadata"].get("resourceVersion") != self.stored["metadata"]["resourceVersion"]:
            return refusal(409, "Conflict")
        if request.method == "PATCH":
            assert body["metadata"]["annotations"] == {HOLDER_ANNOTATION: None}
            kept = {name: value for name, value in self.stored["metadata"].items() if name != "annotations"}
            return self._store({**self.stored, "metadata": kept, "spec": self.stored["spec"] | body["spec"]})
        return self._store(body)

    def _store(self, body):
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.stored = body
        return web.json_response(body)

    @property
    def holder(self):
        return self.stored["metadata"].get("annotations", {}).get(HOLDER_ANNOTATION)

    async def writes(self, number):
        async with self.written:
            await self.written.wait_for(lambda: self.version >= number)


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def leases():
    return Leases()


@pytest.fixture
async def client(leases):
    async with (
        serving(leases.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def running(lease):
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(lease.run())
        yield
        task.cancel()


async def test_a_new_lease_is_what_kubernetes_expects(client, leases):
    lease = NodeLease(client, "node", holder="host/1", clock=Clock())
    lease.owner_uid = "node-uid"
    await lease.acquire()
    assert leases.log == ["GET", "POST"]
    assert leases.stored["spec"] == {
        "holderIdentity": "node",
        "leaseDurationSeconds": 40,
        "renewTime": "1970-01-12T13:46:40.000000Z",
    }
    assert leases.stored["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "node", "uid": "node-uid"}
    ]
    assert leases.holder == "host/1"
    assert lease.age < 5


async def test_renewing_takes_one_request(client, leases, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    lease = NodeLease(client, "node", holder="host/1")
    await lease.acquire()
    async with running(lease):
        await leases.writes(4)
    assert leases.log[2:5] == ["PUT", "PUT", "PUT"]


async def test_stopping_lets_go_so_that_a_successor_need_not_wait(client, leases):
    """It renews as it does so: Kubernetes 1.37 takes a lease that changes without that for a stale cache."""
    clock = Clock()
    lease = NodeLease(client, "node", holder="elsewhere/1", clock=clock)
    await lease.acquire()
    async with running(lease):
        await asyncio.sleep(0)
        clock.now += 7
    assert leases.holder is None
    assert leases.stored["spec"]["renewTime"] == "1970-01-12T13:46:47.000000Z"
    await NodeLease(client, "node", holder="other/2", clock=clock).acquire()
    assert leases.holder == "other/2"


async def test_a_live_holder_is_refused_by_name(client, leases):
    clock = Clock()
    await NodeLease(client, "node", holder="elsewhere/1", clock=clock).acquire()
    clock.now += 12
    with pytest.raises(Misconfigured, match=r"node node .*elsewhere/1.* 12 s ago.*--node-name"):
        await NodeLease(client, "node", holder="here/2", clock=clock).acquire()
    assert leases.holder == "elsewhere/1"


async def test_a_lease_that_ran_out_is_taken(client, leases):
    clock = Clock()
    await NodeLease(client, "node", holder="elsewhere/1", clock=clock).acquire()
    clock.now += 41
    await NodeLease(client, "node", holder="here/2", clock=clock).acquire()
    assert leases.holder == "here/2"


async def test_a_dead_process_of_this_host_does_not_hold_anything(client, leases):
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    await NodeLease(client, "node", holder=f"here/{ended.pid}").acquire()
    await NodeLease(client, "node", holder=f"here/{os.getpid()}").acquire()
    assert leases.holder == f"here/{os.getpid()}"


async def test_a_live_process_of_this_host_does(client):
    await NodeLease(client, "node", holder=f"here/{os.getpid()}").acquire()
    with pytest.raises(Misconfigured, match="another agent"):
        await NodeLease(client, "node", holder="here/999999999").acquire()


async def test_the_same_agent_restarted_goes_on(client, leases):
    await NodeLease(client, "node", holder="pod-0/1").acquire()
    await NodeLease(client, "node", holder="pod-0/1").acquire()
    assert leases.version == 2


async def test_a_pod_made_anew_waits_until_its_predecessor_is_silent(client, leases, monkeypatch):
    """Killed without a chance to let go: the kubelet and the StatefulSet have ended it before there is another."""
    monkeypatch.setattr(lease_module, "SILENCE", 0.05)
    await NodeLease(client, "node", holder="pod-0/uid-one").acquire()
    await NodeLease(client, "node", holder="pod-0/uid-two").acquire()
    assert leases.holder == "pod-0/uid-two"


async def test_pods_of_two_stateful_sets_of_one_name_are_told_apart(client, leases, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(lease_module, "SILENCE", 0.2)
    first = NodeLease(client, "node", holder="pod-0/uid-one")
    await first.acquire()
    async with running(first):
        with pytest.raises(Misconfigured, match="another agent, pod-0/uid-one"):
            await NodeLease(client, "node", holder="pod-0/uid-two").acquire()
        assert leases.holder == "pod-0/uid-one"


async def test_labels_and_annotations_are_written_with_every_renewal(client, leases, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    lease = NodeLease(client, "node", holder="pod-0/1")
    lease.labels = {"a-label": "x"}
    lease.annotate = lambda: {"renewals": str(lease.renewals)}
    await lease.acquire()
    async with running(lease):
        await leases.writes(3)
        assert leases.stored["metadata"]["labels"] == {"a-label": "x"}
        assert leases.stored["metadata"]["annotations"]["renewals"] == str(leases.version - 1)


async def take_over(client, leases, monkeypatch, *, holder):
    """An agent runs; another one takes its Lease, as after a stall; returns what ends the first."""
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    stolen = {**leases.stored, "metadata": {"name": "node", "annotations": {HOLDER_ANNOTATION: holder}}}
    stolen["spec"] = stolen["spec"] | {"renewTime": ahead.isoformat()}
    leases._store(stolen)
    async with asyncio.timeout(10):
        with pytest.raises(Misconfigured) as caught:
            await lease.run()
    assert leases.holder == holder
    return str(caught.value)


async def test_an_agent_that_lost_its_lease_stops(client, leases, monkeypatch):
    assert "another agent, elsewhere/7" in await take_over(client, leases, monkeypatch, holder="elsewhere/7")


async def test_two_agents_of_one_name_find_out(client, leases, monkeypatch):
    assert "two agents" in await take_over(client, leases, monkeypatch, holder="pod-0/1")


@pytest.mark.parametrize("away", [0, 15])
async def test_a_write_whose_reply_was_lost_is_known_again(client, leases, monkeypatch, away):
    """Also after as many tries as fit into the time for which it counts."""
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(lease_module, "TRY_AGAIN_AFTER", 0.01)
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    leases.lose_replies, leases.away = 1, away
    async with running(lease):
        await leases.writes(5)
    assert leases.holder is None  # let go in the end: it was never taken for somebody else's


async def test_it_is_let_go_although_a_renewal_that_was_cut_off_comes_in_between(client, leases):
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    leases.late = True
    async with running(lease):
        await asyncio.sleep(0)  # so that it runs
    assert leases.log == ["GET", "POST", "GET", "PATCH", "GET", "PATCH"]
    assert leases.holder is None


async def test_each_request_of_a_renewal_has_its_time(client, leases, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(lease_module, "TRY_AGAIN_AFTER", 0.01)
    monkeypatch.setattr(lease_module, "REQUEST_TIMEOUT", 2.0)
    monkeypatch.setattr(lease_module, "RELEASE_TIMEOUT", 4.0)
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    leases.lose_replies, leases.slow = 1, 1.2  # so that the next version is not known, and has to be read
    async with running(lease):
        await leases.writes(4)
    assert leases.log.count("GET") == 3  # to take it, to read that version, to let go


async def test_a_lease_deleted_with_its_node_is_made_again(client, leases, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.01)
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    leases.stored = None
    lease.owner_uid = "second"
    async with running(lease):
        await leases.writes(3)
    assert leases.stored["metadata"]["ownerReferences"][0]["uid"] == "second"


def test_it_is_sure_no_longer_when_a_pod_of_its_name_may_take_the_lease():
    assert lease_module.RENEW_EVERY * 1.04 < lease_module.SURE < lease_module.SILENCE


async def test_whether_it_is_sure_counts_from_when_a_renewal_was_sent(client, leases, monkeypatch):
    """Its answer may take long; others count from what is written in it."""
    lease = NodeLease(client, "node", holder="pod-0/1")
    await lease.acquire()
    assert lease.sure
    monkeypatch.setattr(lease_module, "SURE", 0.2)
    leases.slow = 0.2
    await lease.acquire()
    assert not lease.sure
