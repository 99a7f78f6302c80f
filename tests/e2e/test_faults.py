"""Bad input and trouble that an agent meets, on a real apiserver, with the rights of deploy/base/rbac.yaml.

The pods run on the `simulated` backend, which fails on demand; what is killed, is killed in test_kills.py.
"""

import asyncio
import json
import pathlib
import socket
import subprocess
import sys

import pytest
import yaml
from accounts import kubeconfig_of

from chaos.proxy import Proxy
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")
NAMESPACE = "faults"


class Agent:
    """One agent as a process of its own."""

    def __init__(self, kubeconfig, node, log, *flags, health="127.0.0.1:0", backend="simulated"):
        self.log = log
        argv = [OVERSPILL, "agent", "--node-name", node, "--kubeconfig", str(kubeconfig)]
        argv += ["--backend", backend, "--health-address", health, *flags]
        with log.open("wb") as file:
            self.process = subprocess.Popen(argv, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def end(self):
        self.process.terminate()
        return self.process.wait(20)

    def failure(self, *, seconds=90):
        """What it said last, once it has ended with exit code 1."""
        assert self.process.wait(seconds) == 1, self.log.read_text()
        return self.log.read_text().strip().splitlines()[-1]


@pytest.fixture
def start(account, tmp_path):
    """Start agents that end with the test."""
    agents = []

    def start(node, *flags, kubeconfig=None, **options):
        log = tmp_path / f"{node}-{len(agents)}.log"
        agents.append(Agent(kubeconfig or account, node, log, *flags, **options))
        return agents[-1]

    yield start
    for agent in agents:
        if agent.process.poll() is None:
            agent.end()


@pytest.fixture(scope="module")
def prepared(control_plane, until):
    """The control plane with the agents' account and roles, and a namespace for pods."""
    control_plane.kubectl("apply", "-f", str(DEPLOY / "base" / "rbac.yaml"))
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for name, namespace in (("default", NAMESPACE), ("virtual-node-eci", "kube-system")):
        until(lambda n=name, ns=namespace: control_plane.kubectl("get", "serviceaccount", n, "-n", ns))
    return control_plane


@pytest.fixture
def account(prepared, tmp_path):
    """A kubeconfig with a token of the ServiceAccount that agents have in a cluster."""
    return kubeconfig_of(prepared, "virtual-node-eci", tmp_path / "kubeconfig")


def pod(name, node, **spec):
    container = {"name": "main", "image": "localhost/overspill/busybox:1", **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def node_ready(cluster, name):
    conditions = cluster.get("node", name)["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def running(cluster, name):
    return cluster.get("pod", name, "-n", NAMESPACE)["status"]["phase"] == "Running"


def events_of(cluster, name):
    found = cluster.get("events", "-n", NAMESPACE, "--field-selector", f"involvedObject.name={name}")
    return {each["reason"]: each["message"] for each in found}


def refusal(cluster, until, name, reason):
    return until(lambda: events_of(cluster, name).get(reason), what=f"Event {reason} of pod {name}")


def test_the_granted_rights_suffice(prepared, start, until):
    """Config maps, secrets, tokens, services, statuses, events, deletion: all by the agents' own account."""
    agent = start("rights")
    until(lambda: node_ready(prepared, "rights"), what="node Ready")
    data = {"metadata": {"name": "given", "namespace": NAMESPACE}, "apiVersion": "v1"}
    prepared.apply({**data, "kind": "ConfigMap", "data": {"a": "1"}})
    prepared.apply({**data, "kind": "Secret", "stringData": {"b": "2"}})
    env = [{"configMapRef": {"name": "given"}}, {"secretRef": {"name": "given"}}]
    prepared.apply(pod("rights", "rights", container={"envFrom": env}))
    until(lambda: running(prepared, "rights"), what="pod Running")
    prepared.kubectl("delete", "pod", "rights", "-n", NAMESPACE, "--timeout=60s")
    assert "may not" not in agent.log.read_text()
    assert agent.end() == 0


async def test_an_agent_starts_while_the_apiserver_refuses_half_of_all_requests(
    prepared, start, tmp_path, until
):
    """Each start that fails would be followed by a longer wait of its kubelet (chaos, seed 1)."""
    plan, pki = load_plan(prepared.name), cluster_paths(prepared.name).pki
    async with Proxy(plan.endpoint, pki, host="127.0.0.1", seed=1) as proxy:
        kubeconfig = kubeconfig_of(prepared, "virtual-node-eci", tmp_path / "through")
        config = json.loads(kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
        kubeconfig.write_text(json.dumps(config))
        proxy.order("api-5xx", 600)
        agent = start("patient", kubeconfig=kubeconfig)
        await asyncio.to_thread(until, lambda: node_ready(prepared, "patient"), seconds=120)
        assert proxy.met["api-5xx"]
        assert agent.process.poll() is None, agent.log.read_text()
        proxy.calm()
        await asyncio.to_thread(agent.end)


MISSING = [
    ("namespaces", "get"),
    ("leases", "create"),
    ("nodes", "create"),
    ("nodes/status", "patch"),
    ("pods", "watch"),
]


def test_a_missing_right_is_named(prepared, start, tmp_path):
    poor = {}
    for resource, verb in MISSING:  # side by side: each waits for half a minute whether the right comes yet
        name = f"poor-{resource.replace('/', '-')}-{verb}"
        prepared.apply(*roles_without(name, resource, verb))
        poor[resource, verb] = start(name, kubeconfig=kubeconfig_of(prepared, name, tmp_path / name))
    for (resource, verb), agent in poor.items():
        message = agent.failure()
        assert verb in message.split(), message
        assert resource in message, message


def roles_without(name, resource, verb):
    """An account with all of rbac.yaml but one verb on one resource."""
    objects = list(yaml.safe_load_all((DEPLOY / "base" / "rbac.yaml").read_text()))
    for each in objects:
        each["metadata"]["name"] = name
        for rule in each.get("rules", ()):
            if resource in rule["resources"]:
                rule["verbs"] = [kept for kept in rule["verbs"] if kept != verb] or ["deletecollection"]
        if "roleRef" in each:
            each["roleRef"]["name"] = name
            each["subjects"][0]["name"] = name
    return objects


def test_a_node_name_taken_by_a_live_agent_is_refused(prepared, start, until):
    first = start("taken")
    until(lambda: node_ready(prepared, "taken"), what="node Ready")
    message = start("taken").failure()
    assert "taken" in message
    assert f"/{first.process.pid}" in message, "the holder is named"
    assert first.process.poll() is None
    assert node_ready(prepared, "taken")


def test_a_killed_agent_is_succeeded_at_once(prepared, start, until):
    first = start("successor")
    until(lambda: node_ready(prepared, "successor"), what="node Ready")
    first.process.kill()
    first.process.wait()
    second = start("successor")
    until(lambda: "readiness changed" in second.log.read_text(), what="a second agent that serves the node")


def test_an_unreachable_apiserver_is_named(account, start, tmp_path):
    config = json.loads(account.read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{free.getsockname()[1]}"
    config["clusters"][0]["cluster"]["server"] = address
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(json.dumps(config))
    message = start("lost", kubeconfig=nowhere).failure()
    assert address in message
    assert "refused" in message


def test_an_unknown_backend_is_refused_with_those_there_are(start):
    message = start("odd", backend="nonesuch").failure()
    assert "nonesuch" in message
    assert "simulated" in message


def test_a_port_in_use_is_named(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = start("crowded", health=address).failure()
    assert address in message
    assert "--health-address" in message


@pytest.fixture(scope="module")
def node(prepared, until, tmp_path_factory):
    """A node on the simulated backend."""
    folder = tmp_path_factory.mktemp("agent")
    kubeconfig = kubeconfig_of(prepared, "virtual-node-eci", folder / "kubeconfig")
    agent = Agent(kubeconfig, "simulated", folder / "log")
    until(lambda: node_ready(prepared, "simulated"), what="node Ready")
    yield "simulated"
    agent.end()


def test_an_unsupported_field_is_named_in_an_event(prepared, node, until):
    prepared.apply(pod("ipc", node, hostIPC=True))
    assert "spec.hostIPC" in refusal(prepared, until, "ipc", "UnsupportedPod")

    def waiting():
        status = prepared.get("pod", "ipc", "-n", NAMESPACE)["status"]
        reasons = [each["state"]["waiting"]["reason"] for each in status.get("containerStatuses", ())]
        return (status["phase"], reasons) == ("Pending", ["UnsupportedPod"])

    # Pending, not Failed: a ReplicaSet would replace a failed pod at once, and for ever.
    until(waiting, what="the reason in the pod's status")
    conditions = prepared.get("pod", "ipc", "-n", NAMESPACE)["status"]["conditions"]
    told = {each["type"]: each for each in conditions}["PodReadyToStartContainers"]
    assert (told["status"], told["reason"]) == ("False", "UnsupportedPod")
    assert "spec.hostIPC" in told["message"]


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        pytest.param(
            "volume",
            {
                "volumes": [{"name": "v", "configMap": {"name": "volume"}}],
                "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            },
            "FailedMount",
            id="as a volume",
        ),
        pytest.param(
            "environment",
            {"container": {"envFrom": [{"configMapRef": {"name": "environment"}}]}},
            "Failed",
            id="as environment",
        ),
    ],
)
def test_a_pod_waits_for_its_config_map(prepared, node, until, name, spec, reason):
    prepared.apply(pod(name, node, **spec))
    assert f'configmap "{name}" not found' in refusal(prepared, until, name, reason)
    assert prepared.get("pod", name, "-n", NAMESPACE)["status"]["phase"] == "Pending"
    metadata = {"name": name, "namespace": NAMESPACE}
    prepared.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}})
    until(lambda: running(prepared, name), seconds=150, what="pod Running once the ConfigMap is there")


def test_a_daemonset_pod_does_not_hang_on_a_virtual_node(prepared, node, until):
    labels = {"app": "everywhere"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "x"}]},
    }
    prepared.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "everywhere", "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
    )

    def refused():
        pods = prepared.get("pods", "-n", NAMESPACE, "-l", "app=everywhere")
        ours = [each for each in pods if each["spec"].get("nodeName") == node]
        return [each for each in ours if each["status"].get("phase") == "Failed"]

    (first, *_) = until(refused, what="a clear end of the DaemonSet's pod")
    assert "DaemonSet" in first["status"]["message"]
    prepared.kubectl("delete", "daemonset", "everywhere", "-n", NAMESPACE)
