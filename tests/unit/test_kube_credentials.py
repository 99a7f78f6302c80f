"""Credentials that rotate, run out, are refused, or cannot be had."""

import asyncio
import json
import signal
import stat

import pytest

from overspill.errors import Misconfigured, Retry
from overspill.kube.credentials import ExecCredentials, FileCredentials

VERSION = "client.authentication.k8s.io/v1"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def test_a_rotated_token_is_read_within_a_minute(tmp_path):
    path, clock = tmp_path / "token", Clock()
    path.write_text("one\n")
    credentials = FileCredentials(token=path, clock=clock)
    assert (await credentials.get()).token == "one"
    path.write_text("two\n")
    clock.now = 30
    assert (await credentials.get()).token == "one"
    clock.now = 61
    assert (await credentials.get()).token == "two"


async def test_a_refused_token_is_read_again_at_once(tmp_path):
    path = tmp_path / "token"
    path.write_text("one")
    credentials = FileCredentials(token=path)
    first = await credentials.get()
    assert await credentials.get(refused=first) is first  # nothing newer is there
    path.write_text("two")
    second = await credentials.get(refused=first)
    assert second.token == "two"
    assert await credentials.get(refused=first) is second  # somebody else asked already


async def test_a_token_file_that_goes_away_leaves_what_was_read(tmp_path):
    path, clock = tmp_path / "token", Clock()
    path.write_text("one")
    credentials = FileCredentials(token=path, clock=clock)
    await credentials.get()
    path.unlink()
    clock.now = 100
    assert (await credentials.get()).token == "one"


async def test_a_token_file_that_never_was_is_an_error(tmp_path):
    with pytest.raises(Misconfigured, match="none"):
        await FileCredentials(token=tmp_path / "none").get()


@pytest.fixture
def plugin(tmp_path):
    """Makes a plugin of a shell script; it also counts its runs in `runs`."""

    def make(script, **spec):
        path = tmp_path / "bin" / "plugin"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho x >> "{tmp_path}/runs"\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        spec = {"apiVersion": VERSION, "command": "bin/plugin"} | spec
        return ExecCredentials(spec, folder=tmp_path, cluster={"server": "https://here:6443"})

    return make


def runs(tmp_path):
    return len((tmp_path / "runs").read_text().split())


def answer(**status):
    return (
        "cat <<'EOF'\n"
        + json.dumps({"kind": "ExecCredential", "apiVersion": VERSION, "status": status})
        + "\nEOF"
    )


async def test_a_plugin_is_run_once_for_many_callers(plugin, tmp_path):
    credentials = plugin(answer(token="t", expirationTimestamp="2999-01-01T00:00:00Z"))
    found = await asyncio.gather(*(credentials.get() for _ in range(5)))
    assert {credential.token for credential in found} == {"t"}
    assert runs(tmp_path) == 1


async def test_an_expired_answer_is_asked_for_again(plugin, tmp_path):
    credentials = plugin(answer(token="t", expirationTimestamp="2001-01-01T00:00:00Z"))
    first = await credentials.get()
    assert await credentials.get() is first  # the same content is the same credential
    assert runs(tmp_path) == 2


async def test_a_refused_answer_is_asked_for_again(plugin, tmp_path):
    numbered = f'{{"apiVersion":"{VERSION}","status":{{"token":"t%s"}}}}'
    credentials = plugin(f"printf '{numbered}' $(wc -l < {tmp_path}/runs)")
    first = await credentials.get()
    assert await credentials.get() is first
    assert (await credentials.get(refused=first)).token == "t2"


async def test_a_plugin_gets_arguments_environment_and_the_cluster(plugin):
    script = """
    token="$1 $COLOR $(printf %s "$KUBERNETES_EXEC_INFO" | sed 's/.*"server":"\\([^"]*\\)".*/\\1/')"
    printf '{"apiVersion":"%s","status":{"token":"%s"}}' client.authentication.k8s.io/v1 "$token"
    """
    credentials = plugin(
        script, args=["word"], env=[{"name": "COLOR", "value": "blue"}], provideClusterInfo=True
    )
    assert (await credentials.get()).token == "word blue https://here:6443"


async def test_a_plugin_may_give_a_certificate(plugin):
    found = await plugin(answer(clientCertificateData="CRT", clientKeyData="KEY")).get()
    assert (found.certificate, found.key, found.token) == (b"CRT", b"KEY", "")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo please log in >&2; exit 3", "exit code 3: please log in.*ask the platform team"),
        ("echo nonsense", "no ExecCredential"),
        (answer(), "neither a token nor a certificate"),
        (answer(clientCertificateData="CRT"), "half of certificate and key"),
        ('echo \'{"apiVersion":"other/v1","status":{"token":"t"}}\'', "answered other/v1"),
    ],
)
async def test_a_plugin_that_fails_says_why_and_what_to_do(plugin, script, words):
    credentials = plugin(script, installHint="ask the\n platform team")
    with pytest.raises(Misconfigured, match=words):
        await credentials.get()


async def test_a_plugin_that_is_not_there(tmp_path):
    spec = {"apiVersion": VERSION, "command": "no-such-plugin", "installHint": "install it"}
    with pytest.raises(Misconfigured, match=r"no-such-plugin.*install it"):
        await ExecCredentials(spec, folder=tmp_path, cluster={}).get()


async def test_a_plugin_that_worked_before_may_work_again(plugin, tmp_path):
    once = answer(token="t", expirationTimestamp="2001-01-01T00:00:00Z")
    credentials = plugin(f'[ "$(wc -l < {tmp_path}/runs)" -gt 1 ] && exit 1\n{once}')
    await credentials.get()
    with pytest.raises(Retry, match="exit code 1"):
        await credentials.get()


async def test_a_plugin_that_hangs_is_ended(plugin, monkeypatch, started):
    monkeypatch.setattr("overspill.kube.credentials.EXEC_TIMEOUT", 0.1)
    credentials = plugin("exec sleep 600")
    with pytest.raises(Misconfigured, match="no answer in time"):
        await credentials.get()
    assert [each.returncode for each in started] == [-signal.SIGKILL]
