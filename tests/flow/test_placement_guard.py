"""The guard of pods that wait, against a small apiserver: whom it lets go, where to, and when it keeps still."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from kube_server import refusal, serving

import placing
from overspill.kube import leader as leaders
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.kube.leader import Vacancy
from overspill.placement import guard as guards
from overspill.placement.guard import Guard, fallback

RELEASE = {"timeoutSeconds": 0, "onTimeout": "Release"}
LASTS = {"onTimeout": "Release", "timeoutSeconds": 3600}


class Apiserver:
    """A Lease that is renewed at each look as long as somebody leads, and pods that take patches."""

    def __init__(self):
        self.leads = False
        self.leads_after = 0  # so many patches
        self.looks = 0
        self.patches = {}
        self.refusing = set()
        self.failing = set()
        self.patched = asyncio.Condition()

    async def handle(self, request):
        if request.path.endswith("/leases/overspill-controller"):
            self.looks += 1
            renewed = str(self.looks) if self.leads else ""
            spec = {"holderIdentity": "x", "leaseDurationSeconds": 0, "renewTime": renewed}
            async with self.patched:
                self.patched.notify_all()
            return web.json_response({"metadata": {"name": "l"}, "spec": spec})
        if request.method != "PATCH":
            return web.json_response({})
        name, operations = request.match_info["path"].rpartition("/")[2], await request.json()
        async with self.patched:
            self.patches.setdefault(name, []).append(operations)
            self.leads = self.leads or len(self.patches) == self.leads_after
            self.patched.notify_all()
        if name in self.failing:
            return refusal(500, "InternalError", "failed calling webhook")
        if any(name in self.refusing and each["path"] == "/spec/nodeSelector" for each in operations):
            return refusal(422, "Invalid")
        return web.json_response({"kind": "Pod", "metadata": {"name": name}})

    async def until(self, check):
        async with asyncio.timeout(20), self.patched:
            await self.patched.wait_for(check)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(leaders, "LEASE_DURATION", 0.1)
    monkeypatch.setattr(guards, "LOOK_EVERY", 0.02)


@pytest.fixture
def apiserver():
    return Apiserver()


@contextlib.asynccontextmanager
async def guarding(apiserver, policies, pods):
    async with (
        serving(apiserver.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
        asyncio.TaskGroup() as tasks,
    ):
        vacancy = Vacancy(client, "overspill-controller", namespace="kube-system")
        guard = Guard(client, vacancy, Events(client, instance="test"))
        guard.policies_changed(Batch(replace=True, changes=[Change("ADDED", each) for each in policies]))
        guard.pods_changed(Batch(replace=True, changes=[Change("ADDED", each) for each in pods]))
        task = tasks.create_task(guard.run())
        yield guard
        task.cancel()


def paths(operations):
    return {each["path"]: each.get("value") for each in operations}


LABELS = {"pod-template-hash": "1"}


def waiting(name, **fields):
    return placing.gated(name, owner="web-1", labels=LABELS, **fields)


async def test_pods_go_to_the_last_pool_while_nobody_leads(apiserver):
    async with guarding(apiserver, [placing.policy(gate=RELEASE)], [waiting("a"), waiting("b")]):
        await apiserver.until(lambda: len(apiserver.patches) == 2)
    written = paths(apiserver.patches["a"][0])
    assert written["/metadata/labels/placement.overspill.dev~1pool"] == "elastic"
    assert written["/spec/nodeSelector"] == placing.VIRTUAL
    assert "/spec/schedulingGates" in written
    assert not [path for path in written if path.startswith("/metadata/annotations")], "it counts nothing"


async def test_nothing_is_written_while_somebody_leads(apiserver):
    apiserver.leads = True
    async with guarding(apiserver, [placing.policy(gate=RELEASE)], [waiting("a")]):
        await apiserver.until(lambda: apiserver.looks > 20)
        assert apiserver.patches == {}
        apiserver.leads = False
        await apiserver.until(lambda: "a" in apiserver.patches)


async def test_the_rest_waits_once_somebody_leads(apiserver):
    """Hundreds take longer than a controller to begin."""
    apiserver.leads_after = 3
    waits = [waiting(f"p{number}") for number in range(300)]
    async with guarding(apiserver, [placing.policy(gate=RELEASE)], waits):
        await apiserver.until(lambda: apiserver.leads)
        looks = apiserver.looks
        await apiserver.until(lambda: apiserver.looks > looks + 5)
        let_go = len(apiserver.patches)
        await apiserver.until(lambda: apiserver.looks > looks + 10)
        assert 3 <= let_go < 300
        assert len(apiserver.patches) == let_go


async def test_pods_of_a_suspended_policy_go_as_they_are(apiserver):
    """By the index that nobody writes anew they wait all the same."""
    async with guarding(apiserver, [placing.policy(gate=RELEASE, suspend=True)], [waiting("a")]):
        await apiserver.until(lambda: "a" in apiserver.patches)
    assert set(paths(apiserver.patches["a"][0])) == {
        "/metadata/uid",
        "/metadata/resourceVersion",
        "/spec/schedulingGates",
    }


@pytest.mark.parametrize("spec", [{}, {"gate": LASTS}, {"gate": LASTS, "suspend": True}])
async def test_pods_wait_whose_policy_does_not_let_them_go_yet(apiserver, spec):
    async with guarding(apiserver, [placing.policy(**spec)], [waiting("a")]):
        await apiserver.until(lambda: apiserver.looks > 20)
    assert apiserver.patches == {}


async def test_a_pod_that_the_pool_is_refused_for_goes_as_it_is(apiserver):
    apiserver.refusing.add("a")
    async with guarding(apiserver, [placing.policy(gate=RELEASE)], [waiting("a")]):
        await apiserver.until(lambda: len(apiserver.patches.get("a", ())) >= 2)
    assert set(paths(apiserver.patches["a"][1])) == {
        "/metadata/uid",
        "/metadata/resourceVersion",
        "/spec/schedulingGates",
    }


async def test_a_pod_that_cannot_go_now_holds_no_other_up(apiserver):
    apiserver.failing.add("a")
    async with guarding(apiserver, [placing.policy(gate=RELEASE)], [waiting("a"), waiting("b")]):
        await apiserver.until(lambda: "b" in apiserver.patches)
        apiserver.failing.clear()
        tries = len(apiserver.patches["a"])
        await apiserver.until(lambda: len(apiserver.patches["a"]) > tries)


async def test_a_lease_that_is_not_there_is_held_by_nobody():
    async def handle(_request):
        return refusal(404, "NotFound")

    async with serving(handle) as url, Client(Config(server=url, credentials=FileCredentials())) as client:
        now = [0.0]
        vacancy = Vacancy(client, "x", namespace="kube-system", clock=lambda: now[0])
        assert not await vacancy.look(), "it may be made in this moment"
        now[0] = 0.2
        assert await vacancy.look()


def test_the_last_pool_takes_whom_it_can():
    pod, limited = waiting("a"), placing.policy(placing.pool("base", 5), placing.pool("elastic", 3))
    assert fallback(pod, limited) is None
    assert fallback(pod, placing.policy()).name == "elastic"
    assert fallback(waiting("a", nodeSelector={"type": "metal"}), placing.policy()) is None
