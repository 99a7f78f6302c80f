"""Files of running pods follow their ConfigMaps, Secrets and the pod itself: when, and at what price."""

import collections

import msgspec
import pytest
from aiohttp import web
from kube_server import refusal, serving

from overspill.agent.freshness import PERIOD, Freshness
from overspill.agent.scope import NodeFacts
from overspill.agent.sources import FRESH, Sources
from overspill.agent.spec import resolve
from overspill.agent.upkeep import TRIED_AGAIN, Upkeep
from overspill.backends.base import Capabilities
from overspill.errors import NotFound, Retry
from overspill.kube.cache import Key
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.model.pods import Pod
from overspill.model.work import Identity

NODE = NodeFacts(cluster="c", name="vn-0", ip="10.0.0.9", allocatable={"cpu": "4"})
CONF, KEYS = "/api/v1/namespaces/shop/configmaps/conf", "/api/v1/namespaces/shop/secrets/keys"
MASTER, TOKEN = (
    "/api/v1/namespaces/default/services/kubernetes",
    "/api/v1/namespaces/shop/serviceaccounts/clerk/token",
)
CONFIG_VOLUME = {"name": "conf", "configMap": {"name": "conf"}}


def config_map(version, **fields):
    return {"metadata": {"resourceVersion": str(version)}, "data": {"mode": f"v{version}"}} | fields


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Recorder:
    """A backend's `refresh` and the Events, as far as they are told."""

    name = "recorder"

    def __init__(self, *, reads_files=True):
        self.capabilities = Capabilities(frozenset(), frozenset(), reads_files=reads_files)
        self.refreshed = []
        self.warnings = []
        self.failure = None

    async def refresh(self, identity, volumes):
        if self.failure:
            raise self.failure
        self.refreshed.append((identity.name, volumes))

    def warning(self, regarding, reason, message):
        self.warnings.append((regarding.name, reason, message))


class World:
    """An upkeep with everything around it, its apiserver, and a clock that is set by hand."""

    def __init__(self, client, *, reads_files=True):
        self.objects = {MASTER: {"metadata": {"name": "kubernetes"}}, CONF: config_map(1)}
        self.newest = 1000  # resourceVersion
        self.asked = collections.Counter()
        self.queries = []
        self.clock = Clock()
        self.backend = Recorder(reads_files=reads_files)
        self.stale = []
        self.client = client

    async def handle(self, request):
        self.asked[request.path] += 1
        self.queries.append((request.path, request.query.get("resourceVersion")))
        if int(request.query.get("resourceVersion") or 0) > self.newest:
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            return refusal(504, "Timeout", "Timeout: Too large resource version", causes=causes)
        found = self.objects.get(request.path)
        return web.json_response(found) if found else refusal(404, "NotFound", "none")

    def begin(self):
        """An agent starts."""
        self.sources = Sources(self.client, clock=self.clock)
        self.freshness = Freshness(self.sources, stale=self.stale.append, clock=self.clock)
        self.upkeep = Upkeep(
            backend=self.backend,
            sources=self.sources,
            events=self.backend,
            node=NODE,
            freshness=self.freshness,
            clock=self.clock,
        )

    async def start(self, pod):
        self.upkeep.begin(key(pod), pod, await resolve(pod, self.sources, NODE))

    async def tend(self, pod):
        return await self.upkeep.tend(key(pod), pod, identity(pod))

    async def pass_period(self):
        """A period passes; whoever is stale is tended, as the queue would have it."""
        self.clock.now += PERIOD
        self.stale.clear()
        self.asked.clear()
        await self.freshness.read_due()

    @property
    def files(self):
        """The files of the last refresh, by volume and path."""
        _, volumes = self.backend.refreshed[-1]
        return {name: {f.path: f.data.decode() for f in each.files} for name, each in volumes.items()}


@pytest.fixture
async def world():
    world = World(None)
    async with (
        serving(world.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        world.client = client
        world.begin()
        yield world


def make_pod(*volumes, number=0, labels=None, annotations=None) -> Pod:
    spec = {
        "serviceAccountName": "clerk",
        "enableServiceLinks": False,
        "containers": [{"name": "main", "image": "i"}],
        "volumes": volumes,
    }
    meta = {
        "name": f"web-{number}",
        "namespace": "shop",
        "uid": f"uid-{number}",
        "labels": labels or {},
        "annotations": annotations or {},
    }
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)


def key(pod):
    return Key("shop", pod.metadata.name, pod.metadata.uid)


def identity(pod):
    return Identity("c", "vn-0", "shop", pod.metadata.name, pod.metadata.uid)


async def test_a_change_reaches_the_pod_within_a_period(world):
    pod = make_pod(CONFIG_VOLUME)
    await world.start(pod)
    await world.tend(pod)
    await world.pass_period()
    assert world.stale == []
    world.objects[CONF] = config_map(2)
    await world.pass_period()
    assert world.stale == [key(pod)]
    await world.tend(pod)
    assert world.files == {"conf": {"mode": "v2"}}
    await world.tend(pod)
    await world.pass_period()
    assert (len(world.backend.refreshed), world.stale) == (1, [])


def test_the_promise_of_a_minute():
    assert PERIOD + FRESH < 60


async def test_three_thousand_pods_cost_one_read_for_each_object(world):
    names = [f"conf-{number}" for number in range(5)]
    paths = [f"/api/v1/namespaces/shop/configmaps/{name}" for name in names]
    world.objects |= dict.fromkeys(paths, config_map(1))
    volumes = [{"name": name, "configMap": {"name": name}} for name in names]
    for number in range(3000):
        await world.start(make_pod(*volumes, number=number))
    await world.pass_period()
    assert world.asked == dict.fromkeys(paths, 1)
    assert world.stale == []


async def test_reads_come_from_the_apiservers_cache_and_never_go_back(world):
    await world.start(make_pod(CONFIG_VOLUME))
    world.objects[CONF] = config_map(5)
    await world.pass_period()
    await world.pass_period()
    assert world.queries[-2:] == [(CONF, "0"), (CONF, "5")]


async def test_pods_without_such_volumes_cost_nothing(world):
    world.objects[TOKEN] = {"status": {"token": "t"}}
    pods = [
        make_pod(number=0),
        make_pod({"name": "s", "emptyDir": {}}, number=1),
        make_pod(
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, number=2
        ),
    ]
    for pod in pods:
        await world.start(pod)
    assert len(world.freshness) == 0
    await world.pass_period()
    assert not world.asked


async def test_nobody_is_asked_for_a_backend_that_reads_no_files(world):
    world.backend = Recorder(reads_files=False)
    world.begin()
    pod = make_pod(CONFIG_VOLUME)
    await world.start(pod)
    await world.tend(pod)
    assert len(world.freshness) == 0


async def test_what_is_immutable_is_read_no_more(world):
    world.objects[CONF] = config_map(1, immutable=True)
    await world.start(make_pod(CONFIG_VOLUME))
    await world.pass_period()
    assert world.asked == {CONF: 1}
    await world.pass_period()
    assert not world.asked


async def test_what_nobody_uses_any_more_is_read_no_more(world):
    pods = [make_pod(CONFIG_VOLUME, number=number) for number in range(2)]
    for pod in pods:
        await world.start(pod)
    world.upkeep.forget(key(pods[0]))
    assert len(world.freshness) == 1
    world.upkeep.forget(key(pods[1]))
    assert len(world.freshness) == 0


async def test_an_optional_object_may_come_later_and_go_again(world):
    pod = make_pod({"name": "keys", "secret": {"secretName": "keys", "optional": True}})
    await world.start(pod)
    world.objects[KEYS] = {"metadata": {"resourceVersion": "3"}, "data": {"k": "aGk="}}
    await world.pass_period()
    await world.tend(pod)
    assert world.files == {"keys": {"k": "hi"}}
    del world.objects[KEYS]
    await world.pass_period()
    world.clock.now += FRESH
    await world.tend(pod)
    assert world.files == {"keys": {}}


async def test_files_of_a_mandatory_object_stay_when_it_is_deleted(world):
    pod = make_pod(CONFIG_VOLUME)
    await world.start(pod)
    del world.objects[CONF]
    await world.pass_period()
    await world.tend(pod)
    assert world.files == {}
    assert world.backend.warnings == [
        (
            "web-0",
            "FailedMount",
            'MountVolume.SetUp failed for volume "conf" : configmap "conf" not found',
        )
    ]
    await world.pass_period()
    assert world.stale == []
    world.objects[CONF] = config_map(9)
    await world.pass_period()
    await world.tend(pod)
    assert world.files == {"conf": {"mode": "v9"}}


async def test_only_the_changed_volume_is_made_anew_and_no_token_is_asked_for(world):
    world.objects[TOKEN] = {"status": {"token": "t"}}
    token = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    pod = make_pod(CONFIG_VOLUME, token)
    await world.start(pod)
    world.objects[CONF] = config_map(2)
    await world.pass_period()
    await world.tend(pod)
    assert set(world.files) == {"conf"}
    assert world.asked[TOKEN] == 0


# Of a token that lives for 1000 s: 80 % of that, less up to a tenth.
SPREAD = pytest.approx(760, abs=40)


async def test_a_token_is_renewed_when_it_is_due(world):
    world.objects[TOKEN] = {"status": {"token": "t"}, "spec": {"expirationSeconds": 1000}}
    pod = make_pod(
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, CONFIG_VOLUME
    )
    resolved = await resolve(pod, world.sources, NODE)
    due = world.upkeep.begin(key(pod), pod, resolved)
    assert due == SPREAD
    world.clock.now += due - 1
    assert await world.tend(pod) == pytest.approx(1)
    world.objects[TOKEN]["status"]["token"] = "newer"
    world.clock.now += 1
    assert await world.tend(pod) == SPREAD
    assert world.files == {"t": {"token": "newer"}}


async def test_a_token_that_cannot_be_renewed_is_tried_again_soon(world):
    """Its ServiceAccount is made anew by somebody's reinstall."""
    world.objects[TOKEN] = {"status": {"token": "t"}, "spec": {"expirationSeconds": 1000}}
    pod = make_pod({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})
    await world.start(pod)
    del world.objects[TOKEN]
    world.clock.now += 800
    assert await world.tend(pod) == pytest.approx(TRIED_AGAIN)
    assert [reason for _, reason, _ in world.backend.warnings] == ["FailedMount"]
    world.objects[TOKEN] = {"status": {"token": "newer"}, "spec": {"expirationSeconds": 1000}}
    world.clock.now += TRIED_AGAIN
    assert await world.tend(pod) == SPREAD
    assert world.files == {"t": {"token": "newer"}}


async def test_files_follow_also_after_etcd_was_restored(world):
    """What was read last is of the future then."""
    pod = make_pod(CONFIG_VOLUME)
    world.objects[CONF] = config_map(900)
    await world.start(pod)
    await world.pass_period()
    world.objects[CONF], world.newest = config_map(7), 8
    await world.pass_period()
    await world.pass_period()
    await world.tend(pod)
    assert world.files == {"conf": {"mode": "v7"}}


@pytest.mark.parametrize(
    ("item", "changes"),
    [
        ({"path": "f", "fieldRef": {"fieldPath": "metadata.labels"}}, True),
        ({"path": "f", "fieldRef": {"fieldPath": "metadata.labels['app']"}}, True),
        ({"path": "f", "fieldRef": {"fieldPath": "metadata.namespace"}}, False),
    ],
)
async def test_labels_and_annotations_reach_the_files_that_tell_of_them(world, item, changes):
    volume = {"name": "me", "downwardAPI": {"items": [item]}}
    await world.start(make_pod(volume, labels={"app": "a"}))
    await world.tend(make_pod(volume, labels={"app": "a"}))
    assert world.backend.refreshed == []
    await world.tend(make_pod(volume, labels={"app": "b"}))
    assert len(world.backend.refreshed) == changes
    if changes:
        assert "b" in world.files["me"]["f"]
    await world.tend(make_pod(volume, labels={"app": "b"}))
    assert len(world.backend.refreshed) == changes


async def test_a_new_agent_makes_sure_once_of_what_it_finds(world):
    pod = make_pod(
        CONFIG_VOLUME,
        {
            "name": "me",
            "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]},
        },
        labels={"app": "a"},
    )
    await world.tend(pod)
    assert world.files == {"me": {"l": 'app="a"'}}
    await world.freshness.read_due()
    assert world.stale == [key(pod)]
    await world.tend(pod)
    assert world.files == {"conf": {"mode": "v1"}}
    await world.tend(pod)
    await world.pass_period()
    assert (len(world.backend.refreshed), world.stale) == (2, [])


async def test_a_new_agent_renews_tokens_before_they_end(world):
    """It does not know how old they are: a fifth of their life may be all that is left."""
    token = {"path": "token", "expirationSeconds": 600}
    volume = {"name": "t", "projected": {"sources": [{"serviceAccountToken": token}]}}
    assert max([await world.tend(make_pod(volume, number=number)) for number in range(30)]) <= 60


async def test_a_refresh_that_failed_is_done_again(world):
    pod = make_pod(CONFIG_VOLUME)
    await world.start(pod)
    world.objects[CONF] = config_map(2)
    await world.pass_period()
    world.backend.failure = Retry("away")
    with pytest.raises(Retry):
        await world.tend(pod)
    world.backend.failure = None
    await world.tend(pod)
    assert world.files == {"conf": {"mode": "v2"}}


async def test_a_pod_that_ended_meanwhile_is_no_trouble(world):
    pod = make_pod(CONFIG_VOLUME)
    await world.start(pod)
    world.objects[CONF] = config_map(2)
    await world.pass_period()
    world.backend.failure = NotFound("gone")
    await world.tend(pod)
    assert world.backend.warnings == []
