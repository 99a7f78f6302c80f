"""kubectl against virtual nodes, through a real apiserver: logs, exec, cp, attach, run, port-forward."""

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import websocket
from kubectl_world import MIB, NODE, SPACE, forwarded, gauge, pod, talk

from overspill.local.images import BUSYBOX
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# --- logs ---


def test_logs(plain):
    assert plain.said("logs", "speaker").splitlines() == ["line 1", "line 2", "line 3", "problem"]
    assert plain.said("logs", "speaker", "--tail=2").splitlines() == ["line 3", "problem"]
    assert plain.said("logs", "speaker", "--tail=0") == ""
    assert plain.said("logs", "speaker", "--limit-bytes=6") == "line 1"
    assert plain.said("logs", "speaker", "--since=1h").splitlines()[0] == "line 1"
    assert plain.said("logs", "speaker", "--since-time=2100-01-01T00:00:00Z") == ""
    stamped = plain.said("logs", "speaker", "--timestamps").splitlines()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z .+", line) for line in stamped)


def test_followed_logs_end_with_the_container(plain):
    began = time.monotonic()
    assert plain.said("logs", "-f", "short").splitlines() == ["begin", "end"]
    assert time.monotonic() - began < 60


def test_logs_of_the_run_before(plain, until):
    until(
        lambda: plain.said("logs", "restarted", "--previous") == "one of several runs\n", what="a second run"
    )
    done = plain.run("logs", "speaker", "--previous")
    assert done.stderr.decode() == (
        'Error from server (BadRequest): previous terminated container "c" in pod "speaker" not found\n'
    )


def test_logs_of_what_has_none(cluster, plain, until):
    cluster.apply(pod("unpullable", "true", image="localhost/no-such-image:1"))
    until(
        lambda: re.fullmatch(
            r'Error from server \(BadRequest\): container "c" in pod "unpullable" is waiting to start: '
            r"(trying and failing to pull image|image can't be pulled)\n",
            plain.run("logs", "unpullable").stderr.decode(),
        ),
        what="the kubelet's words",
    )


# --- exec ---


@pytest.mark.parametrize("code", [0, 1, 137, 255])
def test_exec_gives_the_exit_code(kubectl, code):
    done = kubectl.run("exec", "speaker", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout) == (code, b"out\n")
    said = f"command terminated with exit code {code}\n" if code else ""
    assert done.stderr.decode() == f"err\n{said}"


def test_exec_reads_stdin_to_its_end(kubectl):
    assert kubectl.said("exec", "-i", "speaker", "--", "wc", "-c", stdin=b"12345") == "5\n"


def test_exec_of_what_is_not_there(kubectl):
    done = kubectl.run("exec", "speaker", "--", "no-such-program")
    assert done.returncode != 0
    assert "no-such-program" in done.stderr.decode()


def test_exec_on_a_terminal(kubectl):
    script = b"test -t 0 && echo is-$((6*7))-terminal; exit 3\n"
    assert talk(kubectl, "exec", "-it", "speaker", "--", "sh", script=script, ends=b"is-42-terminal") == 3


def test_run_on_a_terminal_and_remove(kubectl, streaming):
    overrides = json.dumps({"spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1}})
    name = f"run-{kubectl.environment['KUBECTL_REMOTE_COMMAND_WEBSOCKETS']}"
    args = ("run", name, "-it", "--rm", "--restart=Never", f"--image={BUSYBOX}", f"--overrides={overrides}")
    # Nothing is shown before the shell is attached to; what is typed waits for it.
    code = talk(kubectl, *args, "--", "sh", script=b"echo got-$((6*7)); exit 0\n", ends=b"got-42", timeout=90)
    assert code == 0
    assert name not in streaming.kubectl("-n", SPACE, "get", "pods", "-o", "name")


def test_attach_carries_both_ways(kubectl, streaming):
    name = f"cat-{kubectl.environment['KUBECTL_REMOTE_COMMAND_WEBSOCKETS']}"
    streaming.apply(pod(name, "cat", stdin=True))
    kubectl.said("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    for line in (b"to and fro\n", b"and once more\n"):  # the first client that leaves does not end stdin
        with kubectl.started("attach", "-i", name, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
    (status,) = streaming.get("-n", SPACE, "pod", name)["status"]["containerStatuses"]
    assert (status["restartCount"], "running" in status["state"]) == (0, True)


def test_stdin_once_ends_with_its_client(kubectl, streaming, until):
    name = f"once-{kubectl.environment['KUBECTL_REMOTE_COMMAND_WEBSOCKETS']}"
    streaming.apply(pod(name, "wc", "-c", stdin=True, stdinOnce=True, restart="Never"))
    kubectl.said("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    assert kubectl.said("attach", "-i", name, stdin=b"12345") == "5\n"
    until(lambda: streaming.get("-n", SPACE, "pod", name)["status"]["phase"] == "Succeeded", what="its end")


def test_a_container_runs_on_when_its_spectators_leave(kubectl, streaming):
    for _ in range(2):
        with kubectl.started("attach", "ticker", stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"tick\n"
    (status,) = streaming.get("-n", SPACE, "pod", "ticker")["status"]["containerStatuses"]
    assert (status["restartCount"], "running" in status["state"]) == (0, True)


def test_cp_both_ways(kubectl, tmp_path):
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(os.urandom(5 * MIB))
    kubectl.said("cp", str(sent), "speaker:/tmp/copied")
    kubectl.said("cp", "speaker:/tmp/copied", str(back))
    assert back.read_bytes() == sent.read_bytes()


def test_sixty_four_mebibytes_each_way(kubectl):
    data = os.urandom(MIB) * 64
    told = kubectl.said(
        "exec", "-i", "speaker", "--", "sh", "-c", "cat > /tmp/big; sha256sum < /tmp/big", stdin=data
    )
    assert told.split()[0] == hashlib.sha256(data).hexdigest()
    back = kubectl.run("exec", "speaker", "--", "cat", "/tmp/big").stdout
    assert hashlib.sha256(back).hexdigest() == hashlib.sha256(data).hexdigest()


def test_fifty_at_the_same_time(plain):
    script = "read number; echo got $number"
    running = [
        subprocess.Popen(
            plain.argv("exec", "-i", "speaker", "--", "sh", "-c", script),
            env=plain.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(50)
    ]
    for number, process in enumerate(running):
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].decode() for process in running]
    assert said == [f"got {number}\n" for number in range(50)]


def test_a_killed_client_leaves_nothing(kubectl, until):
    names = ("overspill_kubelet_connections", "process_open_fds")
    kubectl.run("exec", "speaker", "--", "true")
    before = [gauge(kubectl, name) for name in names]
    for _ in range(3):
        with kubectl.started(
            "exec", "-i", "speaker", "--", "sh", "-c", "echo on; sleep 98765", stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"on\n"
    until(lambda: "98765" not in kubectl.said("exec", "speaker", "--", "ps", "-ef"), what="no process left")
    until(
        lambda: all(gauge(kubectl, name) <= was + 1 for name, was in zip(names, before, strict=True)),
        what="no connection and no descriptor left",
    )


# --- port-forward ---


def test_port_forward(kubectl):
    with forwarded(kubectl, "web", 80) as port:
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
                assert answer.read() == b"hello from web, version 1\n"


def test_port_forward_to_where_nobody_listens(kubectl):
    with kubectl.started(
        "port-forward", "pod/web", ":81", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        port = re.search(rb":(\d+) ->", process.stdout.readline())[1].decode()
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10)
        assert b"81" in process.stderr.readline()


# --- clients other than kubectl ---


@pytest.mark.parametrize(
    ("protocol", "coded"),
    [
        ("v4.channel.k8s.io", False),
        ("channel.k8s.io", False),
        ("v4.base64.channel.k8s.io", True),
        ("", False),
    ],
)
def test_legacy_websockets(streaming, protocol, coded):
    """With the library of the official Python client, as it and dashboards do; the apiserver passes it on as it is."""
    paths, plan = cluster_paths(streaming.name), load_plan(streaming.name)
    query = "command=sh&command=-c&command=echo+hi%3B+exit+7&stdout=1&stderr=1"
    said = {}
    socket = websocket.create_connection(
        f"{plan.endpoint.replace('https', 'wss')}/api/v1/namespaces/{SPACE}/pods/speaker/exec?{query}",
        subprotocols=[protocol] if protocol else None,
        sslopt={
            "ca_certs": paths.pki / "ca.crt",
            "certfile": paths.pki / "admin.crt",
            "keyfile": paths.pki / "admin.key",
        },
        http_no_proxy=["*"],
        timeout=30,
    )
    try:
        assert (socket.subprotocol or "") == protocol
        while (data := socket.recv_data()) and data[0] != websocket.ABNF.OPCODE_CLOSE:
            channel = int(data[1][:1]) if coded else data[1][0]
            text = base64.b64decode(data[1][1:]) if coded else data[1][1:]
            said[channel] = said.get(channel, b"") + text
    finally:
        socket.shutdown()
    assert said[1] == b"hi\n"
    if protocol.startswith("v4"):
        status = json.loads(said[3])
        assert (status["reason"], status["details"]["causes"][0]["message"]) == ("NonZeroExitCode", "7")
    else:
        assert b"7" in said[3]


def test_what_the_apiserver_passes_on_to_the_node(streaming, plain):
    def raw(path):
        return plain.said("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/{path}")

    assert raw("healthz") == "ok"
    assert "overspill_pods{" in raw("metrics")
    assert json.loads(raw("configz"))["kubeletconfig"]["port"] == 10250
    assert "container_cpu_usage_seconds_total{" in raw("metrics/resource")
    assert 'pod="web"' in raw("metrics/cadvisor")
    assert json.loads(raw("stats/summary"))["node"]["nodeName"] == NODE
    told = {each["metadata"]["name"]: each for each in json.loads(raw("pods"))["items"]}
    known = {
        each["metadata"]["name"]: each
        for each in streaming.get("pods", "-A", f"--field-selector=spec.nodeName={NODE}")
    }
    assert told.keys() == known.keys()
    assert told["web"]["spec"] == known["web"]["spec"]
    assert told["web"]["status"]["podIP"] == known["web"]["status"]["podIP"]
    done = plain.run("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/logs/")
    assert "MethodNotAllowed" in done.stderr.decode()


# --- the simulated backend ---


@pytest.fixture(scope="module")
def simulated(streaming, until):
    """A second virtual node, whose pods are only played, and which takes WebSockets as clients send them."""
    name = "simulated-0"
    paths, plan = cluster_paths(streaming.name), load_plan(streaming.name)
    flags = {
        "node-name": name,
        "node-ip": plan.host_address,
        "kubeconfig": paths.pki / "agent.kubeconfig",
        "backend": "simulated",
        "health-address": "127.0.0.1:0",
        "kubelet-address": f"{plan.host_address}:0",
        "kubelet-websockets": "true",
    }
    argv = [
        sys.executable,
        "-m",
        "overspill.cli.main",
        "agent",
        *(f"--{key}={value}" for key, value in flags.items()),
    ]
    agent = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        has = {"ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "50m"}}}
        streaming.apply(pod("played", "sh", "-c", "sleep 1000", node=name, **has))
        streaming.kubectl("-n", SPACE, "wait", "--for=condition=Ready", "pod/played", "--timeout=60s")
        until(
            lambda: streaming.kubectl("-n", SPACE, "exec", "played", "--", "echo", "hi") == "hi\n",
            what="exec",
        )
        yield name
    finally:
        streaming.kubectl("-n", SPACE, "delete", "pod", "played", "--force", "--grace-period=0", check=False)
        agent.terminate()
        agent.wait(30)
        streaming.kubectl("delete", "node", name, check=False)


def test_websockets_are_declared_only_where_they_are_switched_on(simulated, streaming):
    assert streaming.get("node", simulated)["status"]["declaredFeatures"] == ["ExtendWebSocketsToKubelet"]
    assert "declaredFeatures" not in streaming.get("node", NODE)["status"]


def test_a_simulated_pod_does_what_makes_sense(simulated, kubectl):
    assert kubectl.run("logs", "played").returncode == 0
    assert kubectl.said("exec", "-i", "played", "--", "cat", stdin=b"echoed") == "echoed"
    assert kubectl.run("exec", "played", "--", "sh", "-c", "exit 137").returncode == 137
    with forwarded(kubectl, "played", 80) as port:
        assert asyncio.run(_echoed(port, b"to and fro")) == b"to and fro"


def test_what_a_simulated_pod_cannot_says_why(simulated, plain, streaming, until):
    done = plain.run("debug", "played", f"--image={BUSYBOX}", "-c", "eye", "--attach=false")
    assert done.returncode == 0, done.stderr.decode()
    patch = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}}
    done = plain.run("patch", "pod", "played", "--subresource", "resize", "-p", json.dumps(patch))
    assert b"Pod running on node without support for resize" in done.stderr, "the apiserver asks the status"

    def told():
        return streaming.get("-n", SPACE, "pod", "played")["status"]

    (eye,) = until(lambda: told().get("ephemeralContainerStatuses"), what="the ephemeral container")
    assert eye["state"]["waiting"]["reason"] == "UnsupportedPod"
    assert "simulated" in eye["state"]["waiting"]["message"]
    assert told()["phase"] == "Running"


async def _echoed(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.readexactly(len(data)), 10)
    writer.close()
    await writer.wait_closed()
    return answer
