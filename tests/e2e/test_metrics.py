"""Figures of pods and nodes as users get them: `kubectl top`, the kubelet API, an autoscaler."""

import collections
import ipaddress
import json
import re
import ssl
import urllib.request

import pytest

from overspill.local.images import BURN, BUSYBOX
from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NODE = "virtual-node-eci-0"
ON_VIRTUAL = {
    "nodeSelector": {"type": "virtual-kubelet"},
    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
}
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: (\d+))?")
FLAGS = {
    "eci": ("--backend", "eci"),
    # On loopback, where the API's Service has no endpoints.
    "simulated": ("--backend", "simulated", "--workers", "0"),
}


@pytest.fixture(scope="module", params=["podman", "eci", "simulated"])
def metered(request, start_cluster, needs_root):
    """A cluster of each backend."""
    if request.param == "podman":
        yield request.getfixturevalue("cluster")
        return
    with start_cluster(f"top-{request.param}", *FLAGS[request.param]) as cluster:
        yield cluster


@pytest.fixture
def namespace(request):
    """A namespace of its own on the cluster that the test uses, by its name."""
    clusters = []

    def make(cluster, name):
        cluster.kubectl("create", "namespace", name)
        clusters.append((cluster, name))
        return name

    yield make
    for cluster, name in clusters:
        cluster.kubectl("delete", "namespace", name, timeout=120)


def deployment(name, image=BUSYBOX, *, replicas=1, command=("sleep", "infinity"), where=None, cpu="50m"):
    container = {"name": "app", "image": image, "resources": {"requests": {"cpu": cpu, "memory": "32Mi"}}}
    if command:
        container["command"] = list(command)
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1, **(where or {})}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def apply(cluster, namespace, *manifests):
    for each in manifests:
        cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(each))
    for each in manifests:
        if each["kind"] == "Deployment":
            name = each["metadata"]["name"]
            cluster.kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=120s")


def top(cluster, *args):
    """`kubectl top` as name -> (millicores, MiB)."""
    output = cluster.kubectl("top", *args, "--no-headers")
    assert "<unknown>" not in output, "a scrape has failed, and two more are needed"
    rows = [line.split() for line in output.splitlines()]
    columns = (1, 3) if args[0] == "node" else (1, 2)
    return {
        row[0]: tuple(int(row[at].removesuffix("m").removesuffix("Mi")) for at in columns) for row in rows
    }


def ask_node(cluster, path, node=NODE):
    """What the node's kubelet API answers, by way of the apiserver; at first hand where its proxy refuses loopback."""
    status = cluster.get("node", node)["status"]
    (address,) = (each["address"] for each in status["addresses"] if each["type"] == "InternalIP")
    if not ipaddress.ip_address(address).is_loopback:
        return cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy{path}")
    pki = cluster_paths(cluster.name).pki
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "apiserver-kubelet-client.crt", pki / "apiserver-kubelet-client.key")
    port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    with urllib.request.urlopen(f"https://{address}:{port}{path}", context=context, timeout=10) as answer:
        return answer.read().decode()


def resource_metrics(cluster, node=NODE):
    """Name -> {(namespace, pod, container): (value, milliseconds)} of /metrics/resource."""
    found = collections.defaultdict(dict)
    for line in ask_node(cluster, "/metrics/resource", node).splitlines():
        if not line.startswith("#"):
            name, labels, value, stamp = SAMPLE.fullmatch(line).groups()
            read = dict(re.findall(r'(\w+)="([^"]*)"', labels or ""))
            key = (read.get("namespace"), read.get("pod"), read.get("container"))
            found[name][key] = (float(value), int(stamp) if stamp else None)
    return found


def test_top_of_pods_and_nodes(metered, namespace, until):
    name = namespace(metered, "top")
    apply(
        metered,
        name,
        deployment("busy", replicas=3, command=["sh", "-c", "yes >/dev/null"], where=ON_VIRTUAL),
    )

    def told():
        pods = top(metered, "pod", "-n", name)
        assert len(pods) == 3
        assert all(cpu > 0 for cpu, _ in pods.values())
        return pods

    pods = until(told, seconds=60, what="kubectl top pod")
    nodes = until(lambda: top(metered, "node"), seconds=60, what="kubectl top node")
    assert set(nodes) == {each["metadata"]["name"] for each in metered.get("nodes")}
    assert nodes[NODE][0] >= max(cpu for cpu, _ in pods.values())


def test_totals_add_up_and_nothing_is_zero(metered, namespace, until):
    name = namespace(metered, "totals")
    apply(metered, name, deployment("idle", replicas=3, where=ON_VIRTUAL))

    def sampled():
        found = resource_metrics(metered)
        mine = [key for key in found["container_memory_working_set_bytes"] if key[0] == name]
        return found if len(mine) == 3 else None

    found = until(sampled, seconds=60, what="figures of three containers")
    memory = found["container_memory_working_set_bytes"]
    assert (
        sum(value for value, _ in memory.values())
        == found["node_memory_working_set_bytes"][None, None, None][0]
    )
    containers = sum(value for value, _ in found["container_cpu_usage_seconds_total"].values())
    # The node's total holds also what ended containers have used.
    assert found["node_cpu_usage_seconds_total"][None, None, None][0] >= containers * 0.999999
    figures = {kind: values for kind, values in found.items() if kind != "resource_scrape_error"}
    assert all(value > 0 for values in figures.values() for value, _ in values.values())
    assert found["resource_scrape_error"][None, None, None][0] == 0
    # CPU and memory of a container carry one time, which is that of the sample.
    cpu = found["container_cpu_usage_seconds_total"]
    assert {key: stamp for key, (_, stamp) in cpu.items()} == {
        key: stamp for key, (_, stamp) in memory.items()
    }


def test_the_summary_tells_the_same_pods(metered, namespace, until):
    name = namespace(metered, "summary")
    apply(metered, name, deployment("idle", replicas=2, where=ON_VIRTUAL))
    uids = {pod["metadata"]["uid"] for pod in metered.get("pods", "-n", name)}

    def told():
        summary = json.loads(ask_node(metered, "/stats/summary"))
        return summary if uids <= {pod["podRef"]["uid"] for pod in summary["pods"]} else None

    summary = until(told, seconds=60, what="both pods in the summary")
    assert summary["node"]["nodeName"] == NODE
    parts = [
        container["memory"]["workingSetBytes"] for pod in summary["pods"] for container in pod["containers"]
    ]
    assert summary["node"]["memory"]["workingSetBytes"] == sum(parts)


def test_the_nodes_cpu_does_not_fall_when_pods_go(cluster, namespace, until):
    name = namespace(cluster, "gone")
    apply(cluster, name, deployment("busy", command=["sh", "-c", "yes >/dev/null"], where=ON_VIRTUAL))

    def cpu():
        found = resource_metrics(cluster)
        mine = sum(
            value for key, (value, _) in found["container_cpu_usage_seconds_total"].items() if key[0] == name
        )
        return mine, found["node_cpu_usage_seconds_total"][None, None, None][0]

    used, before = until(lambda: (now := cpu())[0] > 1 and now, seconds=60, what="a second of CPU")
    cluster.kubectl("-n", name, "delete", "deployment", "busy", "--timeout=60s")
    _, after = until(lambda: (now := cpu())[0] == 0 and now, seconds=60, what="the pod to be gone")
    assert after >= before >= used


def test_an_autoscaler_goes_up_under_load_and_down_after_it(cluster, namespace, until):
    name = namespace(cluster, "hpa")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "burn"},
        "spec": {"selector": {"app": "burn"}, "ports": [{"port": 80}]},
    }
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "burn"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"},
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
        },
    }  # fmt: skip
    loop = "while :; do wget -qO- http://burn/cgi-bin/burn; sleep 1; done"
    client = f"for each in 1 2 3 4 5; do ({loop}) & done; trap exit TERM; wait"
    apply(
        cluster,
        name,
        deployment("burn", BURN, command=None, where=ON_VIRTUAL),
        service,
        autoscaler,
        deployment("clients", replicas=2, command=["sh", "-c", client], cpu="1m"),
    )

    def ready(count):
        def reached():
            found = cluster.get("deployment", "burn", "-n", name)["status"]
            return found.get("replicas") == found.get("readyReplicas") == count

        return reached

    until(ready(3), seconds=120, what="three pods under load")
    cluster.kubectl("-n", name, "scale", "deployment", "clients", "--replicas=0")
    until(ready(1), seconds=180, what="one pod without load")


def test_the_agents_own_series_through_the_apiserver(cluster):
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics")
    for name in (
        "overspill_pods",
        "overspill_backend_request_seconds",
        "workqueue_depth",
        "rest_client_requests_total",
    ):
        assert f"# TYPE {name} " in text


def test_a_cluster_for_scale_runs_has_no_metrics_server(start_cluster):
    with start_cluster("tuned", "--tuned", "--virtual-nodes", "0") as cluster:
        assert "metrics-server" not in cluster.processes()
        services = cluster.get("apiservices")
        assert "v1beta1.metrics.k8s.io" not in {each["metadata"]["name"] for each in services}
