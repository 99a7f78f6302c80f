"""The webhook's server by HTTPS, and its certificates against a small apiserver."""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import ssl

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from kube_server import refusal, serving

from json_patch import applied
from overspill import pki
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.serve.listener import bind
from overspill.webhook.authorities import Content, read
from overspill.webhook.certificates import SECRET, Certificates, Lives
from overspill.webhook.server import BODY_LIMIT, Server

NAMED = {"what": "webhook", "flag": "--webhook-address"}


def review(content, *, uid="u1", version="admission.k8s.io/v1"):
    request = {"uid": uid, "namespace": "a", "object": content, "operation": "CREATE"}
    return {"apiVersion": version, "kind": "AdmissionReview", "request": request}


def label(namespace, content):
    """A decision for tests: what it was asked about, as a label."""
    if b"defect" in bytes(content):
        raise ZeroDivisionError
    wanted = json.loads(bytes(content)).get("wanted", True)
    return [{"op": "add", "path": "/labels", "value": {"namespace": namespace}}] if wanted else []


@contextlib.asynccontextmanager
async def running(*works):
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(work) for work in works]
        yield
        for each in started:
            each.cancel()


@pytest.fixture
async def server():
    """A server with a certificate for 127.0.0.1, its URL, and a session that trusts it."""
    authority = pki.new_authority("test")
    leaf = pki.issue(authority, common_name="x", hosts=["127.0.0.1"], server=True)
    bound = bind("127.0.0.1:0", **NAMED)
    made = Server(bound, {"/label": label})
    made.listener.use_certificate(leaf.certificate, leaf.key)
    trust = ssl.create_default_context(cadata=authority.certificate.decode())
    made.port, made.trust = bound.getsockname()[1], trust
    made.url = f"https://127.0.0.1:{made.port}"
    made.authority = authority
    async with (
        running(made.run()),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
    ):
        made.session = session
        yield made


async def test_answers_allow_and_patch(server):
    async with server.session.post(f"{server.url}/label", json=review({"wanted": True})) as reply:
        answer = await reply.json()
    assert (reply.status, answer["apiVersion"], answer["kind"]) == (
        200,
        "admission.k8s.io/v1",
        "AdmissionReview",
    )
    response = answer["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u1", True, "JSONPatch")
    patch = json.loads(base64.b64decode(response["patch"]))
    assert applied({}, patch) == {"labels": {"namespace": "a"}}


async def test_an_empty_patch_is_none(server):
    async with server.session.post(f"{server.url}/label", json=review({"wanted": False})) as reply:
        assert (await reply.json())["response"] == {"uid": "u1", "allowed": True}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/other", review({}), 404),
        ("GET", "/label", None, 405),
        ("POST", "/label", {"apiVersion": "admission.k8s.io/v1"}, 400),
        ("POST", "/label", review({}, version="admission.k8s.io/v1beta1"), 400),
        ("POST", "/label", review({"text": "defect"}), 500),
    ],
)
async def test_what_goes_wrong_is_an_http_error_and_ends_nothing(server, method, path, body, status):
    async with server.session.request(method, server.url + path, json=body) as reply:
        assert reply.status == status
    async with server.session.post(f"{server.url}/label", json=review({})) as reply:
        assert reply.status == 200


async def test_a_body_that_is_too_long_is_not_read(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    writer.write(f"POST /label HTTP/1.1\r\nContent-Length: {BODY_LIMIT + 1}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_connection_is_kept_until_the_certificate_changes(server):
    for wanted in (None, None):
        async with server.session.post(f"{server.url}/label", json=review({})) as reply:
            assert reply.headers.get("Connection") == wanted
    before = server.listener.era.number
    leaf = pki.issue(server.authority, common_name="y", hosts=["127.0.0.1"], server=True)
    server.listener.use_certificate(leaf.certificate, leaf.key)
    while server.listener.era.number == before:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    async with server.session.post(f"{server.url}/label", json=review({})) as reply:
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
    async with server.session.post(f"{server.url}/label", json=review({})) as reply:
        assert (reply.status, reply.headers.get("Connection")) == (200, None)


class Apiserver:
    """One Secret and one MutatingWebhookConfiguration."""

    def __init__(self):
        self.secret = None
        self.version = 0
        self.bundles = {"a": "", "b": ""}
        self.away = False
        self.refused = 0
        self.changed = asyncio.Condition()

    async def handle(self, request):
        if self.away:
            self.refused += 1
            async with self.changed:
                self.changed.notify_all()
            return refusal(503, "ServiceUnavailable")
        body = await request.json() if request.can_read_body else {}
        handle = self._secret if "/secrets" in request.path else self._configuration
        reply = handle(request.method, body)
        async with self.changed:
            self.changed.notify_all()
        return reply

    def _secret(self, method, body):
        if method == "GET":
            return web.json_response(self.secret) if self.secret else refusal(404, "NotFound")
        have = self.secret and self.secret["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion") != have:
            return refusal(409, "Conflict")
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.secret = body
        return web.json_response(body)

    def _configuration(self, method, body):
        if self.bundles is None:
            return refusal(404, "NotFound")
        if method == "PATCH":
            self.bundles |= {each["name"]: each["clientConfig"]["caBundle"] for each in body["webhooks"]}
        webhooks = [
            {"name": name, "clientConfig": {"url": "https://x/", **({"caBundle": found} if found else {})}}
            for name, found in self.bundles.items()
        ]
        return web.json_response({"metadata": {"name": "overspill"}, "webhooks": webhooks})

    async def until(self, check):
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(check)

    @property
    def authorities(self):
        data = {key: base64.b64decode(value) for key, value in self.secret["data"].items()}
        return read(Content(data["ca.crt"], data["ca.key"]))

    @property
    def trusted(self):
        """Whether every webhook trusts what the Secret holds."""
        return self.secret is not None and set(self.bundles.values()) == {self.secret["data"]["ca.crt"]}


@pytest.fixture
def apiserver():
    return Apiserver()


@pytest.fixture
async def replica(apiserver):
    """Makes replicas that look after certificates; what each serves with is in its `served`."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(apiserver.handle))
        config = Config(server=url, credentials=FileCredentials())

        async def start(**lives):
            client = await stack.enter_async_context(Client(config, connections=1))
            served = []
            made = Certificates(
                client,
                lambda certificate, key: served.append(pki.KeyPair(certificate, key)),
                namespace="kube-system",
                hosts=["overspill-webhook.kube-system.svc", "10.0.0.1"],
                lives=Lives(**{"every": 0.05, **lives}),
            )
            made.served = served
            await stack.enter_async_context(running(made.run()))
            return made

        yield start


def signed_by(leaf, authorities):
    """Which of the authorities signed a leaf."""
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    for index, each in enumerate(authorities):
        with contextlib.suppress(Exception):
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(each.certificate))
            return index
    return None


async def test_replicas_that_start_at_once_sign_by_one_authority(apiserver, replica):
    replicas = [await replica() for _ in range(3)]
    await apiserver.until(lambda: apiserver.trusted and all(each.trouble is None for each in replicas))
    assert len(apiserver.authorities) == 1
    for each in replicas:
        (leaf,) = each.served
        assert signed_by(leaf, apiserver.authorities) == 0
        assert pki.is_pair(leaf)
        assert pki.subject_names(leaf.certificate) == {"overspill-webhook.kube-system.svc", "10.0.0.1"}
    assert len({each.served[0].key for each in replicas}) == 3, "each has a key of its own"
    assert apiserver.secret["metadata"]["name"] == SECRET


async def test_a_leaf_is_renewed_before_it_ends(apiserver, replica):
    made = await replica(leaf=dt.timedelta(seconds=3))
    await apiserver.until(lambda: len(made.served) >= 3)
    for before, after in zip(made.served, made.served[1:], strict=False):
        # It began when it was made; certificates tell time in whole seconds.
        assert pki.expires_at(after.certificate) - 3 <= pki.expires_at(before.certificate)
    assert len(apiserver.authorities) == 1


async def test_authorities_change_without_a_leaf_that_is_not_trusted(apiserver, replica):
    made = await replica(authority=dt.timedelta(seconds=10), leaf=dt.timedelta(seconds=4))
    await apiserver.until(lambda: apiserver.trusted)
    (first,) = apiserver.authorities
    await apiserver.until(lambda: len(apiserver.authorities) == 2)
    second = apiserver.authorities[1]
    assert apiserver.authorities[0] == first
    assert signed_by(made.served[-1], (first, second)) == 0, "the new one is trusted before it signs"
    await apiserver.until(lambda: signed_by(made.served[-1], (second,)) == 0)
    assert apiserver.trusted
    await apiserver.until(lambda: first not in apiserver.authorities)


async def test_what_somebody_takes_out_is_put_back(apiserver, replica):
    made = await replica()
    await apiserver.until(lambda: apiserver.trusted and made.trouble is None)
    apiserver.bundles = {"a": "", "c": ""}
    await apiserver.until(lambda: apiserver.trusted)
    (before,) = apiserver.authorities
    apiserver.secret = None
    await apiserver.until(lambda: apiserver.trusted)
    assert before not in apiserver.authorities
    apiserver.secret["data"]["ca.key"] = base64.b64encode(b"spoilt").decode()
    await apiserver.until(lambda: apiserver.trusted and len(apiserver.authorities) == 1)
    assert signed_by(made.served[-1], apiserver.authorities) == 0


async def test_trouble_tells_what_to_do_and_passes(apiserver, replica):
    apiserver.bundles = None
    made = await replica()
    await apiserver.until(lambda: made.trouble and "apply deploy/webhook" in made.trouble)
    apiserver.bundles = {"a": ""}
    await apiserver.until(lambda: made.trouble is None)
    apiserver.away = True
    await apiserver.until(lambda: apiserver.refused > 1)
    assert made.trouble is None, "what is served stays good while the apiserver is away"
