"""Keys from every source, and calls over real sockets to a small server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from msgspec import Struct

from overspill.backends.eci import credentials
from overspill.backends.eci.client import Client, base_url
from overspill.backends.eci.credentials import Credentials, find_credentials
from overspill.backends.eci.faults import ApiRejected, NoRoom
from overspill.backends.eci.rates import Rates
from overspill.backends.eci.sign import Key
from overspill.errors import Misconfigured, Retry
from overspill.metrics import REGISTRY

OFF = {"ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}


class Answer(Struct):
    ok: bool = False


class Server:
    """Answers calls with what a test says, in order, the last one for ever; keeps what it got."""

    def __init__(self, *answers: tuple[int, dict] | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), dict(await request.post())))  # type: ignore[arg-type]  # text only
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            assert request.transport
            request.transport.abort()
            return web.Response()
        return web.json_response(answer[1], status=answer[0])


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def calling(*answers: tuple[int, dict] | None, environ=None) -> AsyncIterator[tuple[Server, Client]]:
    keys = environ or {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}
    async with (
        serving(Server(*answers)) as server,
        Client(
            endpoint=server.url,
            region="r-1",
            credentials=find_credentials(keys, region="r-1"),
            rates=Rates(),
        ) as client,
    ):
        yield server, client


def refusal(code: str) -> dict:
    return {"Code": code, "Message": "m", "RequestId": "REQ"}


async def test_parameters_go_in_a_form_and_are_signed():
    async with calling((200, {"OK": True})) as (server, client):
        answer = await client.call("DoThis", {"A": [1, 2], "B": True}, Answer)
    assert answer.ok
    ((headers, form),) = server.requests
    assert form == {"RegionId": "r-1", "A.1": "1", "A.2": "2", "B": "true"}
    assert headers["Authorization"].startswith("ACS3-HMAC-SHA256 Credential=id,")
    assert headers["x-acs-action"] == "DoThis"


async def test_lost_replies_and_server_errors_are_met_by_another_try():
    async with calling(None, (503, refusal("ServiceUnavailable")), (200, {"ok": True})) as (server, client):
        assert (await client.call("DescribeThis", {}, Answer)).ok
    nonces = {headers["x-acs-signature-nonce"] for headers, _ in server.requests}
    assert len(nonces) == 3


async def test_what_could_be_done_twice_is_not_sent_again():
    async with calling(None) as (server, client):
        with pytest.raises(Retry, match="no answer"):
            await client.call("ExecThis", {}, Answer, safe=False)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [("InvalidParameter", ApiRejected), ("OperationDenied.NoStock", NoRoom)]
)
async def test_a_refusal_is_an_answer(code, kind):
    async with calling((403, refusal(code))) as (server, client):
        with pytest.raises(kind, match=r"RequestId REQ"):
            await client.call("CreateContainerGroup", {}, Answer)
    assert len(server.requests) == 1


def counted(op: str, code: str) -> float:
    labels = {"backend": "eci", "op": op, "code": code}
    return REGISTRY.get_sample_value("overspill_backend_request_seconds_count", labels) or 0.0


@pytest.mark.parametrize(
    ("answers", "codes"),
    [
        ([(403, refusal("OperationDenied.NoStock"))], {"NoRoom": 1}),
        ([(400, refusal("Throttling")), None, (200, {})], {"ApiThrottled": 1, "Retry": 1, "OK": 1}),
    ],
)
async def test_each_try_of_an_action_is_counted_by_what_came_of_it(answers, codes):
    before = {code: counted("CreateContainerGroup", code) for code in codes}
    async with calling(*answers) as (_, client):
        with contextlib.suppress(NoRoom):
            await client.call("CreateContainerGroup", {}, Answer)
    found = {code: counted("CreateContainerGroup", code) - count for code, count in before.items()}
    assert found == codes


async def test_throttling_slows_that_action_down():
    async with calling((400, refusal("Throttling")), (200, {})) as (_, client):
        rate = client.rates["create"].rate
        await client.call("CreateContainerGroup", {}, Answer)
        assert client.rates["create"].rate < rate
        assert client.rates["delete"].rate == 20


@pytest.mark.parametrize(
    ("body", "complaint"), [("<html>", "cannot be read"), (" " * (33 << 20), "more than 32 MiB is not read")]
)
async def test_an_answer_that_is_no_json_or_has_no_end_is_no_answer(body, complaint):
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=body)

    server = Server((200, {}))
    server.handle = handle  # type: ignore[method-assign]  # this one server answers otherwise
    async with serving(server):
        keys = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}
        made = find_credentials(keys, region="r")
        async with Client(endpoint=server.url, region="r", credentials=made, rates=Rates()) as client:
            with pytest.raises(Retry, match=complaint):
                await client.call("DescribeThis", {}, Answer, tries=1)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("eci.cn-hangzhou.aliyuncs.com", "https://eci.cn-hangzhou.aliyuncs.com"),
        ("https://x:8443", "https://x:8443"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://localhost:9", "http://localhost:9"),
    ],
)
def test_endpoints(endpoint, url):
    assert base_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["http://eci.example.com", "ftp://x", "https://x/path", "https://"])
def test_bad_endpoints(endpoint):
    with pytest.raises(Misconfigured, match="endpoint"):
        base_url(endpoint)


async def key_of(environ, **more):
    async with aiohttp.ClientSession() as session:
        return await find_credentials(environ, region="r-1", **more).key(session)


async def test_key_from_the_environment():
    key = await key_of(
        {
            "ALIBABA_CLOUD_ACCESS_KEY_ID": "id",
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
            "ALIBABA_CLOUD_SECURITY_TOKEN": "token",
        }
    )
    assert (key.id, key.secret, key.token) == ("id", "secret", "token")


async def test_half_a_key_is_an_error():
    with pytest.raises(Misconfigured, match="set both"):
        await key_of({"ALIBABA_CLOUD_ACCESS_KEY_ID": "id"})


FILE = """
[default]
type = access_key
access_key_id = file-id
access_key_secret = file-secret
[session]
type = sts
access_key_id = s-id
access_key_secret = s-secret
security_token = s-token
[broken]
type = access_key
access_key_id = x
[odd]
type = magic
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / ".alibabacloud"
    folder.mkdir()
    (folder / "credentials").write_text(FILE)
    return tmp_path


async def test_key_from_the_file(home):
    assert (await key_of(OFF, home=home)).id == "file-id"
    assert (await key_of(OFF | {"ALIBABA_CLOUD_PROFILE": "session"}, home=home)).token == "s-token"


@pytest.mark.parametrize(
    ("profile", "told"),
    [("broken", "access_key_secret is missing"), ("odd", "none of"), ("none", "no section")],
)
async def test_a_wrong_file_is_an_error(home, profile, told):
    with pytest.raises(Misconfigured, match=told):
        await key_of({"ALIBABA_CLOUD_PROFILE": profile}, home=home)


async def test_a_broken_file_is_not_quoted(home):
    (home / ".alibabacloud" / "credentials").write_text("s3cret without a section\n")
    with pytest.raises(Misconfigured, match="cannot be read") as refused:
        await key_of({}, home=home)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_no_source_says_what_to_set(tmp_path):
    with pytest.raises(Misconfigured, match="ALIBABA_CLOUD_ACCESS_KEY_ID"):
        await key_of(OFF, home=tmp_path)


def session_key(**changes) -> dict:
    return {
        "AccessKeyId": "STS.id",
        "AccessKeySecret": "sts-secret",
        "SecurityToken": "sts-token",
        "Expiration": "2099-01-01T00:00:00Z",
        **changes,
    }


def role(server: Server, token) -> dict[str, str]:
    return {
        "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/agent",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/x",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token),
        "ALIBABA_CLOUD_STS_ENDPOINT": server.url,
    }


async def test_role_of_a_service_account(tmp_path):
    token = tmp_path / "token"
    token.write_text("jwt\n")
    async with serving(Server((200, {"Credentials": session_key()}))) as server:
        key = await key_of(role(server, token))
    assert (key.id, key.token) == ("STS.id", "sts-token")
    assert key.expires_at
    ((_, form),) = server.requests
    assert (form["Action"], form["OIDCToken"]) == ("AssumeRoleWithOIDC", "jwt")


async def test_a_role_is_asked_for_in_a_form_that_says_so(tmp_path):
    """Through the client's own pool, which adds no header by itself; STS reads no form that it is not told of."""
    token = tmp_path / "token"
    token.write_text("jwt")
    answers = [(200, {"Credentials": session_key()}), (200, {"ok": True})]
    async with serving(Server(*answers)) as server:
        keys = find_credentials(role(server, token), region="r")
        async with Client(endpoint=server.url, region="r", credentials=keys, rates=Rates()) as client:
            await client.call("DescribeThis", {}, Answer)
    (headers, form), _ = server.requests
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form["Action"] == "AssumeRoleWithOIDC"


async def test_a_refused_role_names_code_and_request(tmp_path):
    token = tmp_path / "token"
    token.write_text("jwt-secret")
    async with serving(Server((400, refusal("AuthenticationFail.OIDCToken.Expired")))) as server:
        with pytest.raises(Misconfigured, match=r"OIDCToken\.Expired \(RequestId REQ\)") as refused:
            await key_of(role(server, token))
    assert "jwt-secret" not in str(refused.value)


@pytest.mark.parametrize(("status", "error"), [(200, Retry), (400, Misconfigured)])
async def test_an_answer_of_sts_that_is_no_text(tmp_path, status, error):
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b'{"Code":"\xff","Credentials":{"AccessKeyId":"\xff"}}')

    token = tmp_path / "token"
    token.write_text("jwt")
    server = Server((200, {}))
    server.handle = handle  # type: ignore[method-assign]  # this one server answers otherwise
    async with serving(server):
        with pytest.raises(error, match="STS for role"):
            await key_of(role(server, token))


async def test_a_key_is_renewed_before_it_ends(tmp_path):
    token = tmp_path / "token"
    token.write_text("jwt")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    first, second = session_key(Expiration=soon), session_key(AccessKeyId="STS.second")
    answers = [(200, {"Credentials": first}), (200, {"Credentials": second})]
    async with serving(Server(*answers)) as server, aiohttp.ClientSession() as session:
        found = find_credentials(role(server, token), region="r")
        assert (await found.key(session)).id == "STS.id"
        keys = await asyncio.gather(*(found.key(session) for _ in range(5)))
        assert {key.id for key in keys} == {"STS.second"}
    assert len(server.requests) == 2


@pytest.mark.parametrize("error", [Retry, Misconfigured])
async def test_a_key_that_cannot_be_renewed_is_used_until_it_ends(error):
    times, asked = [0.0], []

    async def fetch(_):
        asked.append(times[-1])
        if len(asked) > 1:
            raise error("no key")
        return Key("STS.id", "sts-secret", "sts-token", 1000.0)

    found = Credentials("STS", fetch, clock=lambda: times[-1])
    async with aiohttp.ClientSession() as session:
        for now in (0.0, 699.0, 700.0, 705.0, 711.0, 995.0):
            times.append(now)
            assert (await found.key(session)).id == "STS.id"
        assert asked == [0.0, 700.0, 711.0, 995.0]
        times.append(1000.0)
        with pytest.raises(error):
            await found.key(session)


async def test_role_of_the_instance(tmp_path, monkeypatch):
    async def handle(request: web.Request) -> web.Response:
        if request.path.endswith("/api/token"):
            assert request.method == "PUT"
            return web.Response(text="imds-token")
        assert request.headers["X-aliyun-ecs-metadata-token"] == "imds-token"
        if request.path.endswith("security-credentials/"):
            return web.Response(text="agent-role")
        assert request.path.endswith("/agent-role")
        return web.json_response(session_key())

    server = Server((200, {}))
    server.handle = handle  # type: ignore[method-assign]  # this one server answers otherwise
    async with serving(server):
        monkeypatch.setattr(credentials, "METADATA", server.url)
        assert (await key_of({}, home=tmp_path)).id == "STS.id"
