"""The kubelet API over TLS: who gets in, what is answered, what ends what."""

import asyncio
import base64
import contextlib
import errno
import json
import socket
import ssl

import aiohttp
import kube_server
import pytest
import structlog
from aiohttp import web
from cryptography import x509
from kubelet_api import ADMIN, NODE, SCRAPER, STRANGER, client_of, container, eventually, staged

from overspill import pki
from overspill.backends.base import Capabilities
from overspill.errors import Misconfigured, Retry
from overspill.kube.keepalive import DEAD_AFTER
from overspill.serve.kubelet.certificate import follow_files, sign_by_cluster
from overspill.serve.kubelet.keys import expires_at, new_node_key
from overspill.serve.listener import Listener, bind

LOGS = "/containerLogs/default/web/c"
UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"


@pytest.fixture
async def stage(tmp_path):
    async with staged(tmp_path) as stage:
        yield stage


# --- who gets in ---


async def test_nobody_is_anonymous(stage):
    for path in ("/healthz", "/metrics", "/pods", LOGS, "/exec/default/web/c", "/", "/no-such-path"):
        assert await stage.get(path) == (401, "Unauthorized")
    assert stage.apiserver.asked == []


async def test_a_bogus_token_is_nobodys_and_is_asked_about_once(stage):
    for _ in range(3):
        assert await stage.get("/metrics", token="bogus") == (401, "Unauthorized")
    assert stage.apiserver.asked == ["token"]


async def test_a_token_without_the_verb_is_forbidden(stage):
    assert (await stage.get("/metrics/resource", token=SCRAPER))[0] == 200
    assert await stage.get("/pods", token=SCRAPER) == (
        403,
        "Forbidden (user=scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n",
    )
    assert (await stage.get("/exec/default/web/c?command=id", token=SCRAPER, method="POST"))[0] == 403
    assert (await stage.get("/no-such-path", token=STRANGER))[0] == 403


async def test_answers_are_remembered(stage):
    for _ in range(3):
        assert (await stage.get("/pods", token=ADMIN))[0] == 200
    assert stage.apiserver.asked == ["token", ("admin", "get", "pods"), ("admin", "get", "proxy")]


async def test_a_client_certificate_of_the_cluster_is_enough(stage):
    shown = stage.client_certificate("apiserver")
    assert (await stage.get(LOGS, client=shown))[0] == 200
    assert stage.apiserver.asked == [("apiserver", "get", "proxy")]


async def test_certificates_that_are_not_of_the_clients_authority_end_the_handshake(stage):
    other = pki.new_authority("another CA")
    serving = pki.issue(stage.authority, common_name="system:node:other", hosts=["127.0.0.1"], server=True)
    with structlog.testing.capture_logs() as logged:
        for shown in (stage.client_certificate("apiserver", other), serving):
            with pytest.raises((ssl.SSLError, aiohttp.ClientError, ConnectionError)):
                await stage.get("/pods", client=shown, token=ADMIN)
    assert stage.apiserver.asked == []
    assert (await stage.get("/pods", token=ADMIN))[0] == 200, "it is the one connection that ends"
    # More than once each: the client tries again.
    assert {(line["event"], line["error"]) for line in logged} == {
        ("kubelet API client certificate refused", "unable to get local issuer certificate"),
        ("kubelet API client certificate refused", "unsuitable certificate purpose"),
    }


async def test_without_the_apiserver_only_what_is_remembered_counts(stage):
    assert (await stage.get("/metrics", token=SCRAPER))[0] == 200
    stage.apiserver.broken = True
    assert (await stage.get("/metrics", token=SCRAPER))[0] == 200
    status, text = await stage.get("/stats/summary", token=SCRAPER)
    assert (status, text) == (
        500,
        "Authorization error (user=scraper, verb=get, resource=nodes, subresource=stats)",
    )
    assert await stage.get("/metrics", token=ADMIN) == (401, "Unauthorized")
    stage.apiserver.broken = False
    assert (await stage.get("/metrics", token=ADMIN))[0] == 200  # trouble is not remembered


async def test_refusals_are_logged_without_secrets(stage):
    with structlog.testing.capture_logs() as logged:
        await stage.get("/exec/default/web/c?command=password", token="bogus-secret")
        await stage.get("/pods?x=hidden", token=SCRAPER)
    refused = [line for line in logged if line["event"] == "kubelet API request refused"]
    assert [(line["status"], line["user"], line["path"]) for line in refused] == [
        (401, "", "/exec/default/web/c"),
        (403, "scraper", "/pods"),
    ]
    assert not any(word in str(logged) for word in ("bogus-secret", SCRAPER, "password", "hidden"))


# --- what is answered ---


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/healthz", 200, "ok"),
        ("/healthz/ping", 200, "ok"),
        ("/healthz/nothing", 404, "404 page not found\n"),
        ("/metrics", 200, "overspill_pod_start_seconds"),
        ("/metrics/resource", 200, "node_cpu_usage_seconds_total"),
        ("/metrics/cadvisor", 200, 'container_memory_working_set_bytes{container="c",image="'),
        ("/metrics/probes", 200, "# Pods of this node run at simulated, from which nobody hears"),
        ("/stats/summary", 200, "{}"),
        ("/configz", 200, '"maxPods":110'),
        ("/containerLogs/default/nobody/c", 404, 'pod "nobody" does not exist'),
        ("/containerLogs/default/web/d", 404, 'container "d" not found in pod "web"'),
        (f"{LOGS}?tailLines=-1", 422, '{"message": "Invalid request."}'),
        (f"{LOGS}?previous=true", 400, 'previous terminated container "c" in pod "web" not found'),
        ("/exec/default/web/d?command=id&output=1", 500, 'container not found ("d")'),
        ("/exec/default/nobody/c?command=id&output=1", 404, "pod does not exist"),
        ("/exec/default/web/another-uid/c?command=id&output=1", 404, "pod does not exist"),
        ("/exec/default/web/c?output=1", 400, "at least 1 command"),
        ("/exec/default/web/c?command=id", 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/c?command=id&output=1", 400, "Upgrade request required"),
        ("/portForward/default/web", 400, "Upgrade request required"),
        ("/run/default/web/c?cmd=id", 405, "Method Not Allowed"),
        ("/no/such/path", 404, "404 page not found\n"),
        ("/metrics/../exec/default/web/c", 404, "404 page not found\n"),
        ("/pods/", 200, '"kind":"PodList"'),
    ],
)
async def test_routes(stage, path, status, said):
    answered, text = await _get(stage, path)
    assert (answered, said in text) == (status, True), text


async def _get(stage, path):
    """Without the client's own tidying of paths."""
    reader, writer = await stage.connect()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


async def test_logs_of_a_machine_are_refused_with_the_reason(stage):
    status, text = await stage.get("/logs/syslog", token=ADMIN)
    assert (status, "no machine" in text) == (405, True)


async def test_pods_have_spec_and_present_status(stage):
    _, text = await stage.get("/pods", token=ADMIN)
    (item,) = json.loads(text)["items"]
    assert item["metadata"] == {"name": "web", "uid": "uid-of-web", "namespace": "default"}
    assert item["spec"] == {"containers": [{"name": "c"}]}
    assert item["status"]["phase"] == "Running"
    assert "$patch" not in text
    _, text = await stage.get("/runningpods/", token=ADMIN)
    (item,) = json.loads(text)["items"]
    assert [each["name"] for each in item["spec"]["containers"]] == ["c"]


async def test_many_pods_come_in_pieces(stage):
    for number in range(120):
        await stage.node.start(f"pod-{number}", container())
    _, text = await stage.get("/pods", token=ADMIN)
    assert len(json.loads(text)["items"]) == 121


async def test_trouble_of_the_watch_shows_in_healthz(stage):
    stage.node.trouble = "nothing heard for an hour"
    status, text = await stage.get("/healthz", token=ADMIN)
    assert status == 500
    assert "[-]syncloop failed: nothing heard for an hour" in text
    assert (await stage.get("/healthz/ping", token=ADMIN))[0] == 200


async def test_run_answers_with_the_output(stage):
    assert await stage.get("/run/default/web/c?cmd=echo%20a%20b", token=ADMIN, method="POST") == (
        200,
        "a b\n",
    )
    status, text = await stage.get("/run/default/web/c?cmd=false", token=ADMIN, method="POST")
    assert (status, text) == (500, "command 'false' exited with 1: ")


async def test_what_the_backend_has_not_is_told(stage):
    stage.node.backend.capabilities = Capabilities(pod_fields=frozenset(), verbs=frozenset({"logs"}))
    status, text = await stage.get("/attach/default/web/c?output=1", token=ADMIN, method="POST")
    assert (status, text) == (501, "pods on this node run at simulated, which has no attach")
    assert (await stage.get(LOGS, token=ADMIN))[0] == 200


# --- connections ---


async def test_a_connection_serves_many_requests(stage):
    reader, writer = await stage.connect(client=stage.client_certificate())
    for path in ("/healthz", LOGS, "/no/such/path", "/healthz"):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: n\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(head.partition("Content-Length: ")[2].partition("\r\n")[0]))
    writer.close()


async def test_alpn_offers_nothing_but_http_1(stage):
    tls = stage.trust()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port, ssl=tls)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.close()


async def test_garbage_ends_its_own_connection_only(stage):
    good, good_writer = await stage.connect(client=stage.client_certificate())
    reader, writer = await stage.connect()
    writer.write(b"\x16\x03garbage\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    plain, plain_writer = await asyncio.open_connection("127.0.0.1", stage.port)
    plain_writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    await plain.read()
    good_writer.write(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (await good.read()).endswith(b"ok")
    for each in (writer, plain_writer, good_writer):
        each.close()


def connections():
    return [task for task in asyncio.all_tasks() if task.get_name() == "kubelet API connection"]


async def test_a_client_that_leaves_a_followed_log_leaves_nothing_behind(stage):
    _, writer = await stage.connect(client=stage.client_certificate())
    writer.write(f"GET {LOGS}?follow=true HTTP/1.1\r\nHost: n\r\n\r\n".encode())
    await eventually(lambda: len(connections()) == 1 and stage.apiserver.asked)
    writer.transport.abort()
    await eventually(lambda: not connections())


async def test_a_client_that_leaves_an_exec_leaves_nothing_behind(stage):
    reader, writer = await stage.connect(client=stage.client_certificate())
    writer.write(f"POST /exec/default/web/c?command=cat&input=1&output=1 HTTP/1.1\r\n{UPGRADE}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.transport.abort()
    await eventually(lambda: not connections())


async def test_a_new_certificate_is_for_new_connections(stage):
    shown = stage.client_certificate()
    reader, writer = await stage.connect(client=shown)
    before = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.write(f"POST /exec/default/web/c?command=cat&input=1&output=1 HTTP/1.1\r\n{UPGRADE}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    renewed = pki.issue(stage.authority, common_name=NODE, hosts=["127.0.0.1"], server=True)
    generation = stage.server.listener.era.number
    stage.server.listener.use_certificate(renewed.certificate, renewed.key)
    await eventually(lambda: stage.server.listener.era.number > generation)
    _, other = await stage.connect(client=shown)
    assert other.get_extra_info("ssl_object").getpeercert()["serialNumber"] != before
    await eventually(lambda: len(connections()) == 2)  # the stream goes on
    ping = bytes.fromhex("800300060000000400000001")
    writer.write(ping)
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(ping)) == ping
    for each in (writer, other):
        each.close()


async def test_after_a_change_of_the_client_ca_old_certificates_do_not_count(stage):
    shown = stage.client_certificate()
    kept, writer = await stage.connect(client=shown)
    new = pki.new_authority("new CA")
    generation = stage.server.listener.era.number
    stage.server.listener.use_client_ca(new.certificate.decode())
    await eventually(lambda: stage.server.listener.era.number > generation)
    with pytest.raises((ssl.SSLError, aiohttp.ClientError, ConnectionError)):
        await stage.get("/healthz", client=shown)
    assert (await stage.get("/healthz", client=stage.client_certificate("apiserver", new)))[0] == 200
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")
    assert await kept.read() == b""  # as if it had ended before: the client asks anew
    writer.close()


async def test_a_certificate_that_is_shown_after_the_change_is_taken_for_no_new_one(stage):
    """The connection was accepted before it, and is verified as was right then."""
    sock = socket.create_connection(("127.0.0.1", stage.port))
    sock.setblocking(False)
    await stage.get("/healthz", client=stage.client_certificate())  # which was accepted after it
    generation = stage.server.listener.era.number
    stage.server.listener.use_client_ca(pki.new_authority("new CA").certificate.decode())
    await eventually(lambda: stage.server.listener.era.number > generation)
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=stage.trust(client=stage.client_certificate()), server_hostname="127.0.0.1"
    )
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("garbage", ["garbage", "\n", "# für uns\n"])
async def test_a_client_ca_that_is_none_changes_nothing(stage, garbage):
    with pytest.raises(Misconfigured, match="client CA cannot be used"):
        stage.server.listener.use_client_ca(garbage)
    assert (await stage.get("/healthz", client=stage.client_certificate()))[0] == 200


async def test_without_a_client_ca_tokens_count(stage):
    generation = stage.server.listener.era.number
    stage.server.listener.use_client_ca("")
    await eventually(lambda: stage.server.listener.era.number > generation)
    assert (await stage.get("/healthz", client=stage.client_certificate()))[0] == 401
    assert (await stage.get("/metrics", token=SCRAPER))[0] == 200


# --- certificates ---


async def test_keys_are_made_in_another_process():
    made = await new_node_key(NODE, [NODE, "192.0.2.1"])
    assert pki.subject_names(made.self_signed) == {NODE, "192.0.2.1"}
    assert b"CERTIFICATE REQUEST" in made.request
    assert "PRIVATE" not in repr(made)
    assert abs(await expires_at(made.self_signed) - pki.expires_at(made.self_signed)) < 1
    with pytest.raises(Misconfigured, match="cannot be made or read"):
        await expires_at(b"nonsense")


async def test_a_moment_without_memory_for_a_process_passes(monkeypatch):
    async def none_left(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", none_left)
    with pytest.raises(Retry, match="Cannot allocate memory"):
        await new_node_key(NODE, [NODE])


class Signer:
    """An apiserver that takes certificate requests; a test decides on them."""

    def __init__(self):
        self.requests = []
        self.status = {}

    async def handle(self, request):
        if request.method == "POST":
            self.requests.append(await request.json())
            return web.json_response({"metadata": {"name": f"request-{len(self.requests)}"}}, status=201)
        return web.json_response({"metadata": {"name": "request"}, "status": self.status})

    def sign(self, authority):
        """Sign the newest request, as the cluster's signer would."""
        pair = pki.issue(authority, common_name=f"system:node:{NODE}", hosts=[NODE], server=True)
        self.status = {"certificate": base64.b64encode(pair.certificate).decode()}
        return pair.certificate


@contextlib.asynccontextmanager
async def signing(tmp_path):
    """What `sign_by_cluster` uses, while it runs before a `Signer`."""
    signer, used = Signer(), []
    async with (
        kube_server.serving(signer.handle) as url,
        client_of(url, tmp_path) as client,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(
            sign_by_cluster(client, NODE, [NODE, "192.0.2.1"], lambda *pair: used.append(pair))
        )
        yield signer, used
        running.cancel()


async def test_a_node_serves_with_its_own_certificate_until_the_cluster_has_signed_one(tmp_path):
    with structlog.testing.capture_logs() as logged:
        async with signing(tmp_path) as (signer, used):
            await eventually(lambda: signer.requests)
            (own, key), spec = used[0], signer.requests[0]["spec"]
            assert pki.subject_names(own) == {NODE, "192.0.2.1"}
            assert spec["signerName"] == "kubernetes.io/kubelet-serving"
            assert spec["usages"] == ["digital signature", "server auth"]
            asked = x509.load_pem_x509_csr(base64.b64decode(spec["request"]))
            assert asked.subject.rfc4514_string() == f"CN=system:node:{NODE},O=system:nodes"
            signed = signer.sign(pki.new_authority("CA"))
            await eventually(lambda: len(used) == 2)
            assert used[1] == (signed, key)
            assert len(signer.requests) == 1
    told = [line for line in logged if "until it is approved" in line["event"]]
    assert [line["approve"] for line in told] == ["kubectl certificate approve request-1"]


async def test_a_request_that_was_denied_is_told_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("overspill.serve.kubelet.certificate.REFUSED_PAUSE", 0.01)
    with structlog.testing.capture_logs() as logged:
        async with signing(tmp_path) as (signer, used):
            signer.status = {
                "conditions": [{"type": "Denied", "reason": "NotNow", "message": "ask me later"}]
            }
            await eventually(lambda: len(signer.requests) > 1)
            assert len(used) == 1
    assert any("Denied: NotNow ask me later" in line.get("error", "") for line in logged)


async def test_a_certificate_is_replaced_before_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("overspill.serve.kubelet.certificate.rotation_delay", lambda *_, **__: 0.05)
    async with signing(tmp_path) as (signer, _):
        signer.sign(pki.new_authority("CA"))
        await eventually(lambda: len(signer.requests) >= 2)
        keys = {base64.b64decode(request["spec"]["request"]) for request in signer.requests}
        assert len(keys) == len(signer.requests)  # a new key each time


async def test_files_are_read_again_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr("overspill.serve.kubelet.certificate.FILES_EVERY", 0.01)
    authority = pki.new_authority("CA")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    used = []
    with pytest.raises(Misconfigured, match=r"tls\.crt"):
        await follow_files(str(certificate), str(key), lambda *pair: used.append(pair))
    for _ in range(2):
        pair = pki.issue(authority, common_name=NODE, hosts=[NODE], server=True)
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        wanted = (pair.certificate, pair.key)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(
                follow_files(str(certificate), str(key), lambda *pair: used.append(pair))
            )
            await eventually(lambda wanted=wanted: wanted in used)
            following.cancel()


async def test_a_client_that_vanishes_is_noticed_and_one_that_reads_slowly_is_kept(stage):
    accepted = asyncio.get_running_loop().create_future()
    bound = bind("127.0.0.1:0", what="kubelet API", flag="--kubelet-address")
    address = bound.getsockname()
    listener = Listener(bound, lambda _, writer, era: accepted.set_result(writer))
    pair = pki.issue(stage.authority, common_name="system:node:x", hosts=["127.0.0.1"], server=True)
    listener.use_client_ca("")
    listener.use_certificate(pair.certificate, pair.key)
    running = asyncio.create_task(listener.run())
    await eventually(lambda: listener.era.number)
    _, client = await asyncio.open_connection(*address, ssl=stage.trust())
    server = await accepted
    sock = server.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + interval * count == DEAD_AFTER
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0, (
        "it would end a full window, too"
    )
    client.close()
    server.close()
    running.cancel()


def test_an_address_that_is_taken_is_told():
    named = {"what": "kubelet API", "flag": "--kubelet-address"}
    with bind("127.0.0.1:0", **named) as bound:
        bound.listen()
        with pytest.raises(Misconfigured, match="--kubelet-address"):
            bind(f"127.0.0.1:{bound.getsockname()[1]}", **named)
    with bind("[::1]:0", **named) as bound:
        assert bound.getsockname()[0] == "::1"


async def test_what_is_answered_to_head_is_not_taken_for_the_next_answer(stage):
    reader, writer = await stage.connect()
    writer.write(f"HEAD /healthz HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode())
    answer = (await reader.read()).decode()  # to the end of the connection
    assert "Connection: close" in answer
    writer.close()
