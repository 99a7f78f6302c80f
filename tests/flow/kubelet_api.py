"""A kubelet API on loopback: the real server, listener, reviews and routes, before an apiserver of the tests'.

Its node runs pods at the `simulated` backend; its apiserver knows tokens and who may do what, and counts
what it is asked.
"""

import asyncio
import contextlib
import json
import ssl

import aiohttp
import kube_server
import msgspec
from aiohttp import web

from overspill import pki
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.tls import load_pair
from overspill.model.observation import Running
from overspill.model.pods import Meta, Pod
from overspill.model.podstatus import encode, to_pod_status
from overspill.model.work import Container, Identity, Port, WorkSpec
from overspill.serve.kubelet.node import ServedPod
from overspill.serve.kubelet.review import Reviews
from overspill.serve.kubelet.routes import Routes
from overspill.serve.kubelet.server import Server
from overspill.serve.listener import bind

NODE = "virtual-node-0"
ADMIN, SCRAPER, STRANGER = "admin-token", "scraper-token", "stranger-token"
TOKENS = {ADMIN: "admin", SCRAPER: "scraper", STRANGER: "stranger"}
ALLOWED = {
    "admin": {"proxy", "metrics", "stats", "log"},
    "scraper": {"metrics"},
    "apiserver": {"proxy", "metrics"},
}


class Apiserver:
    """Answers reviews; `asked` has what was asked."""

    def __init__(self):
        self.asked = []
        self.broken = False

    async def handle(self, request):
        body = await request.json()
        if self.broken:
            return kube_server.refusal(500, "InternalError", "etcd is on fire")
        spec = body["spec"]
        if body["kind"] == "TokenReview":
            self.asked.append("token")
            name = TOKENS.get(spec["token"])
            user = {"username": name, "groups": ["g"], "uid": "1", "extra": {"x": ["y"]}} if name else {}
            return web.json_response({"status": {"authenticated": bool(name), "user": user}}, status=201)
        wanted = spec["resourceAttributes"]
        assert (wanted["resource"], wanted["name"]) == ("nodes", NODE)
        self.asked.append((spec["user"], wanted["verb"], wanted["subresource"]))
        allowed = wanted["subresource"] in ALLOWED.get(spec["user"], ())
        return web.json_response({"status": {"allowed": allowed}}, status=201)


class StageNode:
    """A node with the pods that a test starts."""

    name = NODE

    def __init__(self, backend):
        self.backend = backend
        self.settings = {"kubeletconfig": {"maxPods": 110}}
        self.trouble = None
        self.served = {}

    async def start(self, name, *containers):
        """Have a pod running."""
        identity = Identity("cluster", NODE, "default", name, f"uid-of-{name}")
        await self.backend.create(WorkSpec(identity=identity, containers=containers, hostname=name))
        spec = {"containers": [{"name": each.name} for each in containers]}
        async with asyncio.timeout(10):
            while True:
                (seen,) = [each for each in await self.backend.list() if each.identity == identity]
                if all(isinstance(each.state, Running) for each in seen.containers):
                    break
                await asyncio.sleep(0.01)
        pod = Pod(Meta(name, uid=identity.uid, namespace="default"), msgspec.Raw(msgspec.json.encode(spec)))
        self.served["default", name] = ServedPod(pod, identity, seen)

    def find(self, namespace, name):
        return self.served.get((namespace, name))

    def pods(self):
        return self.served.values()

    def pod_status(self, served):
        return msgspec.json.decode(encode(to_pod_status(served.seen, host_ip="192.0.2.1")))

    def sync_trouble(self):
        return self.trouble

    async def resource_metrics(self):
        return b"node_cpu_usage_seconds_total 1\n"

    async def summary(self):
        return b"{}"

    async def usage(self):
        return await self.backend.usage()


class Stage:
    """The parts of one test."""

    def __init__(self, *, apiserver, node, server, port, authority):
        self.apiserver, self.node, self.server = apiserver, node, server
        self.port, self.authority = port, authority
        self.url = f"https://127.0.0.1:{port}"

    def trust(self, *, client=None):
        """TLS of a client that trusts the node's certificate, and shows one of its own (a pki.KeyPair)."""
        tls = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if client is not None:
            load_pair(tls, client.certificate, client.key)
        return tls

    def client_certificate(self, name="apiserver", authority=None):
        return pki.issue(authority or self.authority, common_name=name, client=True)

    async def get(self, path, *, token="", client=None, method="GET"):
        """(status, text) of one request on a connection of its own."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=self.trust(client=client))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self.url + path, headers=headers) as response,
        ):
            return response.status, await response.text()

    async def connect(self, *, client=None):
        """A raw connection, for what no HTTP client would send."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust(client=client))


async def eventually(check):
    """Wait until it is true."""
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.01)


def container(name="c", **fields):
    return Container(name, "busybox", command=("sh", "-c", "sleep 1000"), **fields)


WEB = container(ports=(Port(80),))


def client_of(url, tmp_path):
    """A client of the apiserver at this URL."""
    config = tmp_path / "kubeconfig"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    config.write_text(json.dumps(content))
    return Client(load_config(str(config)), connections=4)


@contextlib.asynccontextmanager
async def staged(tmp_path):
    """A kubelet API with one pod `web`."""
    authority = pki.new_authority("test CA")
    apiserver = Apiserver()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(kube_server.serving(apiserver.handle))
        client = await stack.enter_async_context(client_of(url, tmp_path))
        backend = SimulatedBackend(cluster="cluster", node=NODE, options={})
        await stack.enter_async_context(backend)
        node = StageNode(backend)
        await node.start("web", WEB)
        bound = bind("127.0.0.1:0", what="kubelet API", flag="--kubelet-address")
        port = bound.getsockname()[1]
        server = Server(bound, reviews=Reviews(client, node=NODE), router=Routes(node))
        pair = pki.issue(authority, common_name=f"system:node:{NODE}", hosts=["127.0.0.1"], server=True)
        server.listener.use_client_ca(authority.certificate.decode())
        server.listener.use_certificate(pair.certificate, pair.key)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            await eventually(lambda: server.listener.era.number)
            yield Stage(apiserver=apiserver, node=node, server=server, port=port, authority=authority)
            running.cancel()
