"""The official Python client's streams: as it speaks now (`v5.channel.k8s.io`, which the apiserver translates), and as
its releases until 2025 and many dashboards do (`v4.channel.k8s.io`, which it passes on to the node as it is)."""

import contextlib
import threading

import pytest
from kubectl_world import MIB, SPACE
from kubernetes import client, config
from kubernetes.stream import portforward, stream

from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(params=["", "v4.channel.k8s.io"], ids=["newest", "legacy"])
def api(streaming, monkeypatch, request):
    """A client that offers its own protocols or this one."""
    monkeypatch.setenv("no_proxy", "*")
    with config.new_client_from_config(str(cluster_paths(streaming.name).kubeconfig)) as made:
        if request.param:
            made.set_default_header("sec-websocket-protocol", request.param)
        yield client.CoreV1Api(made)


@contextlib.contextmanager
def exec_(api, *command, stdin=False):
    """A process in the pod that most tests use."""
    switches = {"stdin": stdin, "stdout": True, "stderr": True, "tty": False, "_preload_content": False}
    process = stream(api.connect_get_namespaced_pod_exec, "speaker", SPACE, command=list(command), **switches)
    try:
        yield process
    finally:
        process.sock.shutdown()  # `close` leaves the socket open when the server has closed the stream


def test_exec_gives_output_and_exit_code(api):
    with exec_(api, "sh", "-c", "echo out; echo err >&2; exit 7") as process:
        process.run_forever(timeout=60)
        assert (process.read_stdout(), process.read_stderr(), process.returncode) == ("out\n", "err\n", 7)


def test_exec_carries_both_ways(api):
    with exec_(api, "sh", "-c", "read -r line; echo got $line", stdin=True) as process:
        process.write_stdin("this\n")
        process.run_forever(timeout=60)
        assert (process.read_stdout(), process.returncode) == ("got this\n", 0)


def test_exec_gives_all_of_much_output(api):
    with exec_(api, "sh", "-c", f"head -c {4 * MIB} /dev/zero | tr '\\0' x") as process:
        process.run_forever(timeout=120)
        assert process.read_stdout() == "x" * (4 * MIB)
        assert process.returncode == 0


def test_attach(api):
    attached = stream(
        api.connect_get_namespaced_pod_attach, "ticker", SPACE, stdout=True, _preload_content=False
    )
    assert attached.readline_stdout(timeout=60) == "tick"
    attached.sock.shutdown()


def test_logs(api):
    assert api.read_namespaced_pod_log("speaker", SPACE, tail_lines=1) == "problem\n"


def test_port_forward(api):
    forwarded = portforward(api.connect_get_namespaced_pod_portforward, "web", SPACE, ports="80,81")
    with contextlib.closing(forwarded), contextlib.closing(forwarded.socket(80)) as connection:
        connection.settimeout(60)
        connection.sendall(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        assert answer.endswith(b"hello from web, version 1\n")
        assert not forwarded.error(80)
        refused = forwarded.socket(81)
        refused.settimeout(60)
        assert refused.recv(1) == b""
        assert "error forwarding port 81 to pod" in forwarded.error(81)
    for thread in threading.enumerate():
        if thread.name.startswith("Kubernetes port forward proxy"):
            thread.join(60)  # it ends with the last port
    forwarded.websocket.shutdown()
