"""Nothing that is secret reaches the log of an agent's ECI backend or of the emulator, whatever goes wrong."""

import contextlib
import dataclasses
import secrets
import traceback

import pytest

pytest.importorskip("alibabacloud_eci20180808", reason="the official SDK is not installed")

from aiohttp import web
from emulators import emulator, until
from kube_server import refusal, serving

from overspill.backends.eci.backend import EciBackend
from overspill.backends.eci.faults import ApiError
from overspill.emulator.auth import AccessKey
from overspill.errors import Misconfigured, OverspillError, Retry
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.resources import SECRETS as KUBE_SECRETS
from overspill.model.work import Container, EnvVar, File, Files, Identity, Mount, RegistryCredential, WorkSpec
from secret_scan import SECRETS


@dataclasses.dataclass
class Used:
    """Secrets of this run alone; each is found out by its own value."""

    key: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    session: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(40))
    variable: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    content: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    registry: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    bearer: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(40))


@pytest.fixture
def used(monkeypatch):
    used = Used()
    SECRETS.add(*dataclasses.asdict(used).values())
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "session-key")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", used.key)
    monkeypatch.setenv("ALIBABA_CLOUD_SECURITY_TOKEN", used.session)
    return used


def pod(used, number, **more):
    container = Container(
        "main",
        "registry.example.org/app:1",
        env=(EnvVar("PASSWORD", used.variable),),
        mounts=(Mount("keys", "/keys"),),
        **more,
    )
    return WorkSpec(
        identity=Identity("cluster", "vn-0", "default", f"pod-{number}", f"{number:032d}-uid", 0),
        hostname="pod",
        containers=(container,),
        volumes={"keys": Files((File("key", used.content.encode()),))},
        registry_credentials=(RegistryCredential("registry.example.org", "robot", used.registry),),
    )


@contextlib.asynccontextmanager
async def backend_of(rig, **more):
    options = {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
        "securityGroupIds": rig.endpoint.security_group_id,
        "pollSeconds": 0.05,
        **more,
    }
    async with EciBackend(cluster="cluster", node="vn-0", options=options) as backend:
        yield backend


FAULTS = (
    {"kind": "lost-reply", "actions": ["CreateContainerGroup"], "count": 2},
    {"kind": "error", "count": 3},
    {"kind": "throttle", "count": 2},
    {"kind": "duplicate", "actions": ["CreateContainerGroup"], "count": 2},
)


async def test_keys_tokens_and_contents_of_secrets_stay_out_of_the_log(tmp_path, used, capfd, caplog):
    caplog.set_level("DEBUG")
    keys = (AccessKey("session-key", used.key, used.session),)
    async with emulator(tmp_path, more_keys=keys) as rig, backend_of(rig) as backend:
        for fault in FAULTS:
            await rig.admin("POST", "/faults", fault)
        for number in range(4):
            await backend.create(pod(used, number))

        async def all_run():
            return (await rig.admin("GET", "/status"))["groups"].get("Running") == 4

        await until(all_run, "four groups to run in spite of faults")
        work = pod(used, 0)

        async def refreshed():
            try:
                await backend.refresh(work.identity, work.volumes)
            except Retry:  # the reply that would have told that it is made was lost
                return False
            return True

        await until(refreshed, "a group's files to be renewed")
        told = f"{work!r} {await backend.list()!r} {backend!r}"
        await rig.admin("DELETE", "/faults")
    logged = "".join(capfd.readouterr()) + caplog.text + told
    assert "container groups found" in logged
    assert "call to ECI is made again" in logged
    assert SECRETS.leaks(logged) == []


async def test_what_is_refused_is_told_without_them(tmp_path, used, monkeypatch):
    keys = (AccessKey("session-key", used.key, used.session),)
    async with emulator(tmp_path, more_keys=keys) as rig:
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "another-key")
        with pytest.raises(Misconfigured) as unknown_key:
            async with backend_of(rig):
                pass
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "session-key")
        wrong = secrets.token_hex(16)
        SECRETS.add(wrong)
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", wrong)
        with pytest.raises(Misconfigured) as wrong_secret:
            async with backend_of(rig):
                pass
    for caught in (unknown_key, wrong_secret):
        assert isinstance(caught.value, ApiError)
        told = "".join(traceback.format_exception(caught.value))
        assert SECRETS.leaks(told) == []


async def test_the_apiservers_token_is_not_told_either(tmp_path, used):
    token = tmp_path / "token"
    token.write_text(used.bearer)

    async def forbidden(request):
        assert request.headers["Authorization"] == f"Bearer {used.bearer}"
        return refusal(403, "Forbidden", "leases is forbidden")

    async def cut(request):
        request.transport.abort()
        return web.Response()

    for handler in (forbidden, cut):
        async with serving(handler) as url:
            config = Config(server=url, credentials=FileCredentials(token=token))
            async with Client(config) as client:
                with pytest.raises(OverspillError) as caught:
                    await client.request("PUT", KUBE_SECRETS.path(namespace="n", name="x"), retry=False)
        assert SECRETS.leaks("".join(traceback.format_exception(caught.value)) + repr(config)) == []
