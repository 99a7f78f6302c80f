"""The client against a small apiserver: what is repeated, what is refused, what is verified."""

import asyncio
import contextlib
import datetime as dt
import socket

import pytest
import stamina
from aiohttp import web
from kube_server import NOW, Authority, refusal, serving

from overspill import __version__
from overspill.errors import Conflict, Expired, Misconfigured, NotFound, Rejected, Retry, Throttled
from overspill.kube import transport
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.resources import PODS, SERVICEACCOUNTS
from overspill.model.pods import Pod

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
OK = {"metadata": {"name": "a"}}


@pytest.fixture(autouse=True)
def no_waiting():
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


class Script:
    """Answers with the replies given, in order, the last one for ever; keeps the requests."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.requests = []

    async def __call__(self, request):
        self.requests.append((request.method, request.path_qs, await request.read(), dict(request.headers)))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply is None:
            request.transport.abort()
            return web.Response()
        return reply() if callable(reply) else web.json_response(reply)


@contextlib.asynccontextmanager
async def client_of(script, **config):
    config.setdefault("credentials", FileCredentials())
    async with serving(script) as url, Client(Config(server=url, **config)) as client:
        yield client


async def test_request_carries_what_it_should_and_no_more():
    script = Script(OK)
    async with client_of(script, credentials=FileCredentials(token="t")) as client:
        await client.patch(PODS, "a", {"x": 1}, namespace="ns", subresource="status")
    [(method, path, body, headers)] = script.requests
    assert (method, path, body) == ("PATCH", "/api/v1/namespaces/ns/pods/a/status", b'{"x":1}')
    assert headers["User-Agent"] == f"overspill/{__version__}"
    assert headers["Authorization"] == "Bearer t"
    assert headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert headers["Accept"].startswith("application/json;as=PartialObjectMetadata;")
    assert "Accept-Encoding" not in headers


async def test_names_cannot_break_out_of_their_path():
    script = Script(OK)
    async with client_of(script) as client:
        await client.get(PODS, "../../a?b", namespace="n/s", kind=Pod)
    assert script.requests[0][1] == "/api/v1/namespaces/n%2Fs/pods/..%2F..%2Fa%3Fb"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "trouble", [lambda: refusal(500), lambda: refusal(429), None], ids=["500", "429", "cut"]
)
async def test_what_can_be_repeated_is(method, trouble):
    script = Script(trouble, trouble, OK)
    async with client_of(script) as client:
        assert await client.request(method, "/x", body=None if method == "GET" else b"{}")
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "error"), [(lambda: refusal(500), Retry), (None, Retry)], ids=["500", "cut"]
)
async def test_a_post_that_may_have_had_its_effect_is_not_repeated(trouble, error):
    script = Script(trouble, OK)
    async with client_of(script) as client:
        with pytest.raises(error):
            await client.create(PODS, OK, namespace="ns", kind=Pod)
    assert len(script.requests) == 1


async def test_a_post_that_was_throttled_had_none_and_is_repeated():
    script = Script(
        lambda: refusal(429),
        lambda: refusal(503, headers={"Retry-After": "0"}),
        {"metadata": {"name": "made"}},
    )
    async with client_of(script) as client:
        made = await client.create(PODS, OK, namespace="ns", kind=Pod)
    assert made.metadata.name == "made"
    assert len(script.requests) == 3


async def test_repeating_ends():
    script = Script(lambda: refusal(500, message="etcdserver: no leader"))
    async with client_of(script) as client:
        with pytest.raises(Retry, match="no leader"):
            await client.get(PODS, "a", namespace="ns", kind=Pod)
    assert 2 < len(script.requests) < 10


@pytest.mark.parametrize(
    ("code", "error"), [(400, Rejected), (404, NotFound), (409, Conflict), (410, Expired), (422, Rejected)]
)
async def test_a_clear_no_is_not_repeated(code, error):
    script = Script(lambda: refusal(code))
    async with client_of(script) as client:
        with pytest.raises(error):
            await client.get(PODS, "a", namespace="ns", kind=Pod)
    assert len(script.requests) == 1


async def test_retry_false_leaves_it_to_the_caller():
    script = Script(lambda: refusal(429, headers={"Retry-After": "5"}))
    async with client_of(script) as client:
        with pytest.raises(Throttled) as caught:
            await client.request("PATCH", "/x", body=b"{}", retry=False)
    assert caught.value.retry_after == 5
    assert len(script.requests) == 1


async def test_redirects_are_not_followed_with_our_token():
    script = Script(lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}))
    async with client_of(script, credentials=FileCredentials(token="t")) as client:
        with pytest.raises(Rejected):
            await client.request("GET", "/x")


async def test_an_answer_of_another_shape_is_told():
    async with client_of(Script({"metadata": {"name": 7}})) as client:
        with pytest.raises(Rejected, match=r"no Pod.*metadata\.name"):
            await client.get(PODS, "a", namespace="ns", kind=Pod)


async def test_a_refused_token_is_read_again_and_used(tmp_path):
    token = tmp_path / "token"
    token.write_text("old")

    async def answer(request):
        if request.headers["Authorization"] == "Bearer new":
            return web.json_response(OK)
        token.write_text("new")  # the kubelet has rotated it
        return refusal(401, "Unauthorized", "Unauthorized")

    async with client_of(answer, credentials=FileCredentials(token=token)) as client:
        assert (await client.get(PODS, "a", namespace="ns", kind=Pod)).metadata.name == "a"


async def test_a_token_refused_for_good_names_where_it_came_from():
    script = Script(lambda: refusal(401, "Unauthorized", "Unauthorized"))
    async with client_of(script, credentials=FileCredentials(token="t"), origin="kubeconfig /x") as client:
        with pytest.raises(Misconfigured, match="does not accept these credentials, from kubeconfig /x"):
            await client.get(PODS, "a", namespace="ns", kind=Pod)
    assert len(script.requests) == 1


async def test_delete_says_whom_it_means():
    script = Script(OK)
    async with client_of(script) as client:
        await client.delete(PODS, "a", namespace="ns", uid="u", grace_seconds=0)
    assert script.requests[0][2] == (
        b'{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"u"}}'
    )


async def test_subresources_are_posted_to():
    script = Script({"status": {"token": "x"}})
    async with client_of(script) as client:
        await client.create(SERVICEACCOUNTS, {}, namespace="ns", name="sa", subresource="token", kind=dict)
    assert script.requests[0][:2] == ("POST", "/api/v1/namespaces/ns/serviceaccounts/sa/token")


def page(*names, more="", version="5"):
    items = [{"metadata": {"name": name}} for name in names]
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": items}


async def test_lists_come_in_pages_and_begin_anew_when_a_page_has_expired():
    script = Script(page("a", more="c1"), lambda: refusal(410), page("a", "b", more="c2"), page("c"))
    async with client_of(script) as client:
        found = await client.list(PODS, namespace="ns", label_selector="x=y", kind=Pod)
    assert [pod.metadata.name for pod in found] == ["a", "b", "c"]
    assert [path.partition("?")[2] for _, path, *_ in script.requests] == [
        "limit=500&labelSelector=x%3Dy",
        "limit=500&labelSelector=x%3Dy&continue=c1",
        "limit=500&labelSelector=x%3Dy",
        "limit=500&labelSelector=x%3Dy&continue=c2",
    ]


async def test_an_unreachable_apiserver_is_named_with_the_cause():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Client(Config(server=f"https://127.0.0.1:{port}", credentials=FileCredentials())) as client:
        with pytest.raises(
            Retry, match=rf"https://127\.0\.0\.1:{port} cannot be reached: Connection refused"
        ):
            await client.create(PODS, OK, namespace="ns", kind=Pod)


async def test_a_host_that_is_not_there_is_named():
    config = Config(server="https://apiserver.invalid:6443", credentials=FileCredentials())
    async with Client(config) as client:
        with pytest.raises(Retry, match=r"apiserver\.invalid:6443 cannot be reached"):
            await client.request("GET", "/version")


async def test_a_silent_apiserver_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(transport, "REQUEST_TIMEOUT", 0.2)

    async def silent(request):
        await asyncio.Event().wait()

    async with client_of(silent) as client:
        with pytest.raises(Retry, match="did not answer in time"):
            await client.request("GET", "/x", retry=False)


# --- TLS ---


@pytest.fixture(scope="module")
def authority():
    return Authority()


@contextlib.asynccontextmanager
async def tls_client(folder, authority, *, ca=None, server_name="", certificate=b"", key=b"", **wishes):
    async def who(request):
        peer = request.transport.get_extra_info("peercert")
        if not peer:
            return refusal(401, "Unauthorized", "Unauthorized")
        name = dict(part[0] for part in peer["subject"])["commonName"]
        return web.json_response({"metadata": {"name": name}})

    async with serving(who, tls=authority.server_tls(folder, **wishes)) as url:
        config = Config(
            server=url,
            ca=ca or authority.pem,
            tls_server_name=server_name,
            credentials=FileCredentials(certificate=certificate, key=key),
        )
        async with Client(config) as client:
            yield client


async def test_the_client_certificate_is_shown(tmp_path, authority):
    certificate, key = authority.issue("agent")
    async with tls_client(tmp_path, authority, certificate=certificate, key=key) as client:
        assert (await client.get(PODS, "a", namespace="ns", kind=Pod)).metadata.name == "agent"


async def test_the_expected_name_may_differ_from_the_address(tmp_path, authority):
    certificate, key = authority.issue("agent")
    async with tls_client(
        tmp_path, authority, address="192.0.2.1", server_name="apiserver", certificate=certificate, key=key
    ) as client:
        assert await client.request("GET", "/x")


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (
            {
                "ends": dt.datetime(2020, 5, 17, tzinfo=dt.UTC),
                "begins": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
            },
            "expired on 2020-05-17",
        ),
        ({"begins": NOW + dt.timedelta(days=3), "ends": NOW + dt.timedelta(days=9)}, "not valid before"),
        ({"address": "192.0.2.1"}, r"not made out to 127\.0\.0\.1"),
        ({"ca": Authority("other CA").pem}, "not signed by the CA"),
    ],
    ids=["expired", "not yet", "other address", "other CA"],
)
async def test_a_certificate_that_is_not_good_ends_it_at_once(tmp_path, authority, wishes, words):
    async with tls_client(tmp_path, authority, **wishes) as client:
        with pytest.raises(Misconfigured, match=words):
            await client.request("GET", "/x")


async def test_our_own_expired_certificate_is_told_with_its_date(authority):
    """An apiserver lets the connection stand and answers 401."""
    certificate, key = authority.issue("agent", begins=LONG_AGO, ends=dt.datetime(2021, 2, 3, tzinfo=dt.UTC))
    script = Script(lambda: refusal(401, "Unauthorized", "Unauthorized"))
    async with client_of(script, credentials=FileCredentials(certificate=certificate, key=key)) as client:
        with pytest.raises(Misconfigured, match="the client certificate expired on 2021-02-03"):
            await client.request("GET", "/x")


async def test_a_certificate_that_was_rotated_is_used_on_new_connections(tmp_path, authority):
    files = {}
    for name, content in zip(("crt", "key"), authority.issue("before"), strict=True):
        files[name] = tmp_path / name
        files[name].write_bytes(content)
    credentials = FileCredentials(certificate=files["crt"], key=files["key"])

    async def who(request):
        subject = request.transport.get_extra_info("peercert")["subject"]
        name = dict(part[0] for part in subject)["commonName"]
        return (
            refusal(401) if name == "before" and rotated else web.json_response({"metadata": {"name": name}})
        )

    rotated = False
    async with (
        serving(who, tls=authority.server_tls(tmp_path)) as url,
        Client(Config(server=url, ca=authority.pem, credentials=credentials)) as client,
    ):
        assert (await client.get(PODS, "a", namespace="ns", kind=Pod)).metadata.name == "before"
        for name, content in zip(("crt", "key"), authority.issue("after"), strict=True):
            files[name].write_bytes(content)
        rotated = True
        assert (await client.get(PODS, "a", namespace="ns", kind=Pod)).metadata.name == "after"
