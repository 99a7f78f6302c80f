"""What pods refer to, fetched from a small apiserver: how often, when anew, and what is asked for."""

import asyncio
import collections

import msgspec
import pytest
from aiohttp import web

from overspill.agent.references import ObjectName
from overspill.agent.sources import FRESH, Sources
from overspill.agent.spec import Missing, NodeFacts, resolve, resolve_volumes
from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.model.pods import Pod
from overspill.model.work import Files

NODE = NodeFacts(cluster="c", name="vn-0", ip="10.0.0.9", allocatable={"cpu": "4"})
CONF, KEYS = "/api/v1/namespaces/shop/configmaps/conf", "/api/v1/namespaces/shop/secrets/keys"
SERVICES, MASTER = "/api/v1/namespaces/shop/services", "/api/v1/namespaces/default/services/kubernetes"
FORBIDDEN = {
    "kind": "Status",
    "reason": "Forbidden",
    "message": 'secrets "keys" is forbidden: User "vn" cannot get resource "secrets" in API group "" in the namespace "shop"',
}
TOKEN = "/api/v1/namespaces/shop/serviceaccounts/clerk/token"


class Apiserver:
    """Serves objects by path, counts and keeps what it was asked; slow while `gate` is closed."""

    def __init__(self):
        self.objects = {
            CONF: {"data": {"mode": "fast"}},
            KEYS: {"data": {"api": "aHVudGVyMg=="}, "type": "Opaque"},
            MASTER: {
                "metadata": {"name": "kubernetes"},
                "spec": {
                    "clusterIP": "10.96.0.1",
                    "ports": [{"port": 443, "name": "https", "protocol": "TCP"}],
                },
            },
            SERVICES: {
                "metadata": {"resourceVersion": "5"},
                "items": [
                    {"metadata": {"name": "db"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 1}]}}
                ],
            },
            TOKEN: {"status": {"token": "t0ken"}, "spec": {"expirationSeconds": 3607}},
        }
        self.asked = collections.Counter()
        self.bodies = []
        self.forbidden = set()
        self.first_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request):
        self.asked[request.path] += 1
        self.first_asked.set()
        if request.can_read_body:
            self.bodies.append(await request.json())
        await self.gate.wait()
        if request.path in self.forbidden:
            return web.json_response(FORBIDDEN, status=403)
        if request.path not in self.objects:
            return web.json_response({"kind": "Status", "message": "none", "reason": "NotFound"}, status=404)
        return web.json_response(self.objects[request.path])


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def apiserver():
    return Apiserver()


@pytest.fixture
async def client(apiserver):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", apiserver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with Client(Config(server=f"http://{host}:{port}", credentials=FileCredentials())) as client:
        yield client
    await runner.cleanup()


def make_pod(number=0, *, links=True, token=False, **container) -> Pod:
    spec = {
        "serviceAccountName": "clerk",
        "enableServiceLinks": links,
        "containers": [{"name": "main", "image": "i"} | container],
    }
    if token:
        source = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 3607}}
        spec["volumes"] = [{"name": "access", "projected": {"sources": [source]}}]
    meta = {"name": f"web-{number}", "namespace": "shop", "uid": f"uid-{number}"}
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)


READS_BOTH = {"envFrom": [{"configMapRef": {"name": "conf"}}, {"secretRef": {"name": "keys"}}]}


async def renewed(pod, sources, *names):
    return await resolve_volumes(pod, pod.decoded_spec(), names or ("access",), sources, NODE)


def env_of(made):
    return {var.name: var.value for var in made.work.containers[0].env}


async def test_a_pod_is_resolved_from_the_apiserver(apiserver, client):
    made = await resolve(make_pod(token=True, **READS_BOTH), Sources(client), NODE, attempt=3)
    env = env_of(made)
    assert (env["mode"], env["api"]) == ("fast", "hunter2")
    assert (env["KUBERNETES_SERVICE_HOST"], env["DB_SERVICE_HOST"]) == ("10.96.0.1", "10.96.0.7")
    assert made.work.identity.attempt == 3
    volume = made.work.volumes["access"]
    assert volume.files[0].data == b"t0ken"
    assert volume.refresh_after == pytest.approx(0.8 * 3607)
    assert apiserver.bodies[0]["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "uid-0"},
    }


async def test_a_thousand_pods_at_once_cost_one_request_for_each_object(apiserver, client):
    apiserver.gate.clear()
    sources = Sources(client, clock=Clock())
    async with asyncio.TaskGroup() as tasks:
        for number in range(1000):
            tasks.create_task(resolve(make_pod(number, **READS_BOTH), sources, NODE))
        await apiserver.first_asked.wait()
        apiserver.gate.set()
    assert apiserver.asked == {CONF: 1, KEYS: 1, SERVICES: 1, MASTER: 1}


async def test_only_what_a_pod_names_is_asked_for(apiserver, client):
    made = await resolve(make_pod(links=False), Sources(client), NODE)
    assert set(apiserver.asked) == {MASTER}
    assert set(env_of(made)) == {
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "KUBERNETES_SERVICE_PORT_HTTPS",
        "KUBERNETES_PORT",
        "KUBERNETES_PORT_443_TCP",
        "KUBERNETES_PORT_443_TCP_PROTO",
        "KUBERNETES_PORT_443_TCP_PORT",
        "KUBERNETES_PORT_443_TCP_ADDR",
    }


async def test_a_pod_that_starts_later_sees_what_was_changed_before(apiserver, client):
    clock = Clock()
    sources = Sources(client, clock=clock)
    await resolve(make_pod(0, **READS_BOTH), sources, NODE)
    apiserver.objects[CONF] = {"data": {"mode": "slow"}}
    assert env_of(await resolve(make_pod(1, **READS_BOTH), sources, NODE))["mode"] == "fast"
    clock.now += FRESH
    assert env_of(await resolve(make_pod(2, **READS_BOTH), sources, NODE))["mode"] == "slow"
    assert apiserver.asked == {CONF: 2, KEYS: 2, SERVICES: 2, MASTER: 1}


async def test_what_is_missing_is_found_as_soon_as_it_is_there(apiserver, client):
    clock = Clock()
    sources = Sources(client, clock=clock)
    pod = make_pod(token=True, **READS_BOTH)
    there = apiserver.objects.pop(CONF)
    for _ in range(5):
        with pytest.raises(Missing, match='configmap "conf" not found'):
            await resolve(pod, sources, NODE)
    assert apiserver.asked[CONF] == 1
    assert apiserver.asked[TOKEN] == 0, "a pod that cannot start needs no token"
    apiserver.objects[CONF] = there
    clock.now += FRESH
    assert env_of(await resolve(pod, sources, NODE))["mode"] == "fast"
    assert apiserver.asked[TOKEN] == 1


async def test_the_apiservers_own_service_is_waited_for_like_the_rest(apiserver, client):
    clock = Clock()
    sources = Sources(client, clock=clock)
    there = apiserver.objects.pop(MASTER)
    assert env_of(await resolve(make_pod(links=False), sources, NODE)) == {}
    apiserver.objects[MASTER] = there
    clock.now += FRESH
    assert "KUBERNETES_SERVICE_HOST" in env_of(await resolve(make_pod(links=False), sources, NODE))


async def test_each_pod_has_a_token_of_its_own_and_each_refresh_a_new_one(apiserver, client):
    sources = Sources(client)
    pods = [make_pod(number, token=True) for number in range(3)]
    for pod in pods:
        await resolve(pod, sources, NODE)
    apiserver.objects[TOKEN]["status"]["token"] = "renewed"
    volumes = (await renewed(pods[0], sources)).volumes
    assert volumes["access"].files[0].data == b"renewed"
    assert [body["spec"]["boundObjectRef"]["uid"] for body in apiserver.bodies] == [
        "uid-0",
        "uid-1",
        "uid-2",
        "uid-0",
    ]


async def test_a_long_lived_token_is_renewed_every_day(apiserver, client):
    apiserver.objects[TOKEN]["spec"]["expirationSeconds"] = 30 * 86400
    volumes = (await renewed(make_pod(token=True), Sources(client))).volumes
    assert volumes["access"].refresh_after == 86400


async def test_without_its_service_account_a_pod_waits(apiserver, client):
    del apiserver.objects[TOKEN]
    with pytest.raises(Missing, match='failed to fetch token: serviceaccounts "clerk" not found') as raised:
        await resolve(make_pod(token=True), Sources(client), NODE)
    assert raised.value.event == "FailedMount"
    again = await renewed(make_pod(token=True), Sources(client))
    assert again.volumes == {}
    assert "not found" in again.problems[0].message


async def test_no_token_is_issued_where_nothing_could_read_it(apiserver, client):
    made = await resolve(make_pod(token=True), Sources(client, issue_tokens=False), NODE)
    assert apiserver.asked[TOKEN] == 0
    assert made.work.volumes["access"] == Files(made.work.volumes["access"].files, refresh_after=None)
    assert made.work.volumes["access"].files[0].data == b""


async def test_only_the_volumes_that_are_asked_for_are_made_again(apiserver, client):
    pod = make_pod(token=True)
    spec = msgspec.json.decode(pod.spec)
    spec["volumes"] += [{"name": "scratch", "emptyDir": {}}, {"name": "c", "configMap": {"name": "conf"}}]
    pod.spec = msgspec.Raw(msgspec.json.encode(spec))
    apiserver.objects[CONF]["metadata"] = {"resourceVersion": "7"}
    again = await renewed(pod, Sources(client), "c")
    assert set(again.volumes) == {"c"}
    assert again.used == {ObjectName("ConfigMap", "shop", "conf"): "7"}
    assert apiserver.asked[TOKEN] == 0


async def test_what_the_agent_may_not_read_is_a_persons_business(apiserver, client):
    apiserver.forbidden.add(KEYS)
    with pytest.raises(Misconfigured, match="secrets"):
        await resolve(make_pod(**READS_BOTH), Sources(client), NODE)


async def test_one_callers_end_does_not_stop_the_others(apiserver, client):
    apiserver.gate.clear()
    sources = Sources(client)
    async with asyncio.TaskGroup() as tasks:
        first, *others = [
            tasks.create_task(resolve(make_pod(n, **READS_BOTH), sources, NODE)) for n in range(4)
        ]
        await apiserver.first_asked.wait()
        first.cancel()
        apiserver.gate.set()
    assert all(env_of(task.result())["mode"] == "fast" for task in others)


CLAIM = "/api/v1/namespaces/shop/persistentvolumeclaims/data"
PV = "/api/v1/persistentvolumes/pv-1"
ITS_KEYS = "/api/v1/namespaces/storage/secrets/keys"


def claiming() -> Pod:
    claimed = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    spec = {"enableServiceLinks": False, "containers": [{"name": "main", "image": "i"}], "volumes": [claimed]}
    meta = {"name": "web", "namespace": "shop", "uid": "uid-0"}
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)


def bound_to(uid):
    secret = {"name": "keys", "namespace": "storage"}
    source = {"driver": "oss", "volumeHandle": "pv-1", "nodePublishSecretRef": secret}
    return {"metadata": {"name": "pv-1"}, "spec": {"claimRef": {"uid": uid}, "csi": source}}


async def test_a_claim_is_followed_to_its_volume_and_that_ones_secret(apiserver, client):
    apiserver.objects |= {
        CLAIM: {
            "metadata": {"name": "data", "uid": "c-1"},
            "spec": {"volumeName": "pv-1"},
            "status": {"phase": "Bound"},
        },
        PV: bound_to("c-1"),
        ITS_KEYS: {"data": {"akId": "aWQ="}},
    }
    made = await resolve(claiming(), Sources(client), NODE)
    assert made.work.volumes["v"].secret == {"akId": "id"}


async def test_the_secret_of_a_volume_that_is_another_claims_is_not_asked_for(apiserver, client):
    apiserver.objects |= {
        CLAIM: {
            "metadata": {"name": "data", "uid": "c-1"},
            "spec": {"volumeName": "pv-1"},
            "status": {"phase": "Bound"},
        },
        PV: bound_to("c-2"),
        ITS_KEYS: {"data": {"akId": "aWQ="}},
    }
    with pytest.raises(Missing, match='PV "pv-1" is not bound to the claim "data"'):
        await resolve(claiming(), Sources(client), NODE)
    assert apiserver.asked[ITS_KEYS] == 0


async def test_a_claim_that_is_not_bound_yet_is_all_that_is_asked_for(apiserver, client):
    apiserver.objects[CLAIM] = {"metadata": {"name": "data", "uid": "c-1"}, "status": {"phase": "Pending"}}
    with pytest.raises(Missing, match="has non-bound phase"):
        await resolve(claiming(), Sources(client), NODE)
    assert set(apiserver.asked) == {CLAIM, MASTER}
