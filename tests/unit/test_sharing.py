"""Agents of one account share its quota by their demand: the formula, and several of them over fake Leases."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill import names
from overspill.agent import sharing as module
from overspill.agent.sharing import FLOOR, Sharing, demands, share
from overspill.backends.base import Share
from overspill.backends.eci.rates import DEFAULTS, Bucket, Rates
from overspill.kube.lease import live_leases
from overspill.metrics import exposition

wishes = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=50)


def parts(wanted):
    return [
        share(own, [*wanted[:place], *wanted[place + 1 :]], capacity=200) for place, own in enumerate(wanted)
    ]


@given(wishes)
def test_the_shares_add_up_to_the_whole_quota(wanted):
    assert sum(parts(wanted)) == pytest.approx(1.0)


@given(wishes)
def test_nobody_starves_and_who_asks_for_more_gets_more(wanted):
    given_out = parts(wanted)
    assert min(given_out) >= FLOOR / len(wanted) * (1 - 1e-9)
    ordered = [part for _, part in sorted(zip(wanted, given_out, strict=True))]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(ordered))


def test_alone_all_of_it_and_idle_all_alike():
    assert share(0, [], capacity=200) == share(7, [], capacity=200) == 1.0
    assert share(0, [0, 0, 0], capacity=200) == 0.25


def test_who_was_idle_has_an_equal_part_of_what_nobody_asks_for():
    assert share(0, [6, 0, 0], capacity=200) == pytest.approx(0.97 / 4)
    assert share(0, [150, 50, 400], capacity=200) == pytest.approx(FLOOR / 4)


def test_what_an_agent_tells_is_read_back():
    assert demands("create=12,delete=0") == {"create": 12, "delete": 0}
    assert demands("create=many,delete=3,") == {"delete": 3}
    assert demands("") == {}


class Leases:
    """The Leases of a cluster, and the client that lists them."""

    def __init__(self):
        self.written = {}
        self.lists = 0

    async def list(self, resource, *, namespace, label_selector, kind):
        self.lists += 1
        loop = asyncio.get_running_loop()
        name, _, wanted = label_selector.partition("=")
        spec = kind.__annotations__["spec"]
        meta = kind.__annotations__["metadata"]
        return [
            kind(
                metadata=meta(name=node, annotations={names.HOLDER_ANNOTATION: "host/1", **annotations}),
                spec=spec(renew_time=datetime.fromtimestamp(EPOCH + at, UTC).isoformat()),
            )
            for node, (at, labels, annotations) in self.written.items()
            if labels.get(name) == wanted and at <= loop.time()
        ]


EPOCH = 1_000_000.0


class Lease:
    """One agent's Lease, renewed like a real one."""

    def __init__(self, leases, node):
        self.leases, self.node = leases, node
        self.labels, self.annotate, self.renewals = {}, dict, 0

    async def run(self, phase):
        await asyncio.sleep(phase)
        while True:
            self.renew()
            await asyncio.sleep(10.2)

    def renew(self):
        now = asyncio.get_running_loop().time()
        self.leases.written[self.node] = (now, dict(self.labels), dict(self.annotate()))
        self.renewals += 1


class Backend:
    """Makes calls through the buckets of the ECI backend; the account has a bucket of its own."""

    name, quota = "paper", "paper.region"

    def __init__(self, account):
        self.rates = Rates(clock=asyncio.get_running_loop().time)
        self.account = account
        self.left = 0
        self.throttled = 0

    @property
    def share(self):
        return self.rates.share

    @share.setter
    def share(self, share):
        self.rates.share = share

    def demand(self):
        return {"create": self.rates.demand("create", queued=max(self.left - 1, 0))}

    async def work(self):
        while True:
            if not self.left:
                await asyncio.sleep(0.05)
                continue
            await self.rates["create"].take()
            if self.account.eta(0):
                self.throttled += 1
            else:
                await self.account.take()
                self.left -= 1


@pytest.fixture
def _fake_time(monkeypatch):
    def clock():
        return EPOCH + asyncio.get_running_loop().time()

    async def live(client, *, label_selector):
        return await live_leases(client, label_selector=label_selector, clock=clock)

    monkeypatch.setattr(module, "live_leases", live)


class Cluster:
    """Some agents on one account."""

    def __init__(self, count):
        self.clock = asyncio.get_running_loop().time
        self.leases = Leases()
        self.account = Bucket(DEFAULTS["create"], clock=self.clock)
        self.backends = [Backend(self.account) for _ in range(count)]
        self.handles = [Lease(self.leases, f"node-{number}") for number in range(count)]
        self.sharings = [
            Sharing(self.leases, handle, backend, clock=self.clock)
            for handle, backend in zip(self.handles, self.backends, strict=True)
        ]

    @contextlib.asynccontextmanager
    async def running(self):
        """All have registered; their heartbeats are out of step."""
        for handle in self.handles:
            handle.renew()
        for sharing in self.sharings:
            await sharing.read()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(work)
                for number, (handle, sharing, backend) in enumerate(
                    zip(self.handles, self.sharings, self.backends, strict=True)
                )
                for work in (handle.run(3.0 * number), sharing.run(), backend.work())
            ]
            yield
            for task in running:
                task.cancel()

    async def done(self):
        """When the last call is made."""
        began = self.clock()
        while any(backend.left for backend in self.backends):  # noqa: ASYNC110 - the loop's time is made up
            await asyncio.sleep(0.1)
        return self.clock() - began

    @property
    def throttled(self):
        return sum(backend.throttled for backend in self.backends)


pytestmark = pytest.mark.looptime
fake_time = pytest.mark.usefixtures("_fake_time")


@fake_time
@pytest.mark.parametrize("wanted", [(1000, 1000, 1000), (2000, 900, 100), (3000, 0, 0)])
async def test_together_they_use_the_quota_and_are_not_throttled(wanted):
    cluster = Cluster(3)
    async with cluster.running():
        await asyncio.sleep(30)
        for backend, calls in zip(cluster.backends, wanted, strict=True):
            backend.left = calls
        took = await cluster.done()
    best = (sum(wanted) - 100) / 20
    assert best / took > 0.85
    assert cluster.throttled <= 3


@fake_time
async def test_one_that_begins_later_takes_its_part_within_two_heartbeats_of_telling():
    cluster = Cluster(2)
    first, second = cluster.backends
    async with cluster.running():
        first.left = 4000
        await asyncio.sleep(60)
        assert first.share.rates["create"] == pytest.approx(0.95)
        assert second.share.rates["create"] <= 0.5
        second.left = first.left
        await asyncio.sleep(31)
        assert second.share.rates["create"] == pytest.approx(0.5, abs=0.1)
        assert first.share.rates["create"] + second.share.rates["create"] == pytest.approx(1, abs=0.02)
        assert cluster.throttled <= 3


@fake_time
async def test_one_that_begins_beside_little_work_need_not_wait_until_the_others_know():
    cluster = Cluster(3)
    first, second, _ = cluster.backends

    async def a_little():
        while True:
            first.left += 1
            await asyncio.sleep(2)

    async with cluster.running():
        trickle = asyncio.ensure_future(a_little())
        await asyncio.sleep(60)
        second.left = 100
        async with asyncio.timeout(12):  # a third of the burst, then a third of 20 a second
            while second.left:  # noqa: ASYNC110 - the loop's time is made up
                await asyncio.sleep(0.1)
        trickle.cancel()
        assert cluster.throttled == 0


@fake_time
async def test_one_that_is_gone_is_not_counted_any_more():
    cluster = Cluster(2)
    cluster.handles[1].renew()
    cluster.handles[1].run = lambda phase: asyncio.sleep(0)  # never renewed again
    async with cluster.running():
        cluster.backends[0].left = 10_000
        await asyncio.sleep(70)
        assert cluster.backends[0].share == Share(fair=1.0, rates={"create": 1.0})


@fake_time
async def test_idle_agents_hardly_ask():
    cluster = Cluster(1)
    async with cluster.running():
        await asyncio.sleep(600)
    assert cluster.leases.lists <= 11


@fake_time
async def test_the_queue_shows_in_the_metrics():
    cluster = Cluster(1)
    async with cluster.running():
        cluster.backends[0].left = 300
        await asyncio.sleep(1)
        text = exposition().decode()
    series = 'overspill_quota_%s{backend="paper",budget="create"}'
    values = {
        name: float(line.rpartition(" ")[2])
        for name in ("waiting", "wait_seconds", "share")
        for line in text.splitlines()
        if line.startswith(series % name)
    }
    assert values == {
        "waiting": pytest.approx(180, abs=3),
        "wait_seconds": pytest.approx(9, abs=0.3),
        "share": 1.0,
    }
