"""The official Python client's streams, which speak the old WebSocket protocols that apiservers pass on as they are."""

import pytest
from kubectl_world import MIB, SPACE
from kubernetes import client, config
from kubernetes.stream import portforward, stream

from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def api(streaming, monkeypatch):
    """A client for one test: `stream` changes it for good."""
    monkeypatch.setenv("no_proxy", "*")
    with config.new_client_from_config(str(cluster_paths(streaming.name).kubeconfig)) as made:
        yield client.CoreV1Api(made)


def exec_(api, *command, **options):
    """A process in the pod that most tests use."""
    switches = {"stdin": False, "stdout": True, "stderr": True, "tty": False, "_preload_content": False}
    return stream(
        api.connect_get_namespaced_pod_exec, "speaker", SPACE, command=list(command), **(switches | options)
    )


def test_exec_gives_output_and_exit_code(api):
    process = exec_(api, "sh", "-c", "echo out; echo err >&2; exit 7")
    process.run_forever(timeout=60)
    assert (process.read_stdout(), process.read_stderr(), process.returncode) == ("out\n", "err\n", 7)


def test_exec_as_its_documentation_has_it(api):
    assert exec_(api, "echo", "hello", _preload_content=True) == "hello\n"


def test_exec_carries_both_ways(api):
    process = exec_(api, "sh", "-c", "read -r line; echo got $line; exit 0", stdin=True)
    process.write_stdin("this\n")
    process.run_forever(timeout=60)
    assert (process.read_stdout(), process.returncode) == ("got this\n", 0)


def test_exec_gives_all_of_much_output(api):
    process = exec_(api, "sh", "-c", f"head -c {4 * MIB} /dev/zero | tr '\\0' x")
    process.run_forever(timeout=120)
    assert process.read_stdout() == "x" * (4 * MIB)
    assert process.returncode == 0


def test_attach(api):
    attached = stream(
        api.connect_get_namespaced_pod_attach, "ticker", SPACE, stdout=True, _preload_content=False
    )
    assert attached.readline_stdout(timeout=60) == "tick"
    attached.close()


def test_logs(api):
    assert api.read_namespaced_pod_log("speaker", SPACE, tail_lines=1) == "problem\n"


def test_port_forward(api):
    forwarded = portforward(api.connect_get_namespaced_pod_portforward, "web", SPACE, ports="80,81")
    connection = forwarded.socket(80)
    connection.settimeout(60)
    connection.sendall(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
    answer = b""
    while data := connection.recv(65536):
        answer += data
    assert answer.endswith(b"hello from web, version 1\n")
    assert forwarded.error(80) is None
    refused = forwarded.socket(81)
    refused.settimeout(60)
    assert refused.recv(1) == b""
    assert "error forwarding port 81 to pod" in forwarded.error(81)
