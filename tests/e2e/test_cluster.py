"""The local cluster as a user has it: what works on it, what `up` repairs, what `down` leaves."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from overspill.local.archive import File, Image, layer_of, write_archive
from overspill.local.cgroups import container_cgroups, pids_in_cgroup
from overspill.local.images import BUSYBOX, WEB
from overspill.local.kubectl import kubectl_path
from overspill.local.machine import members
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan
from overspill.local.processes import marked, started_at, with_descendants

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")
ON_WORKER = {"nodeSelector": {"kubernetes.io/hostname": "worker-0"}}


def pod(name, image, *command, namespace="default", **spec):
    container = {"name": "c", "image": image, "ports": [{"containerPort": 80}]}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def service(name):
    spec = {"selector": {"app": name}, "ports": [{"port": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def fetch(url):
    return subprocess.run(
        ["busybox", "timeout", "5", "busybox", "wget", "-qO-", url],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.fixture(scope="module")
def web(cluster, until):
    """A web pod behind a Service, and a pod to ask it from, both on the worker."""
    cluster.apply(
        pod("web", WEB[0], **ON_WORKER),
        pod("client", BUSYBOX, "sleep", "100000", **ON_WORKER),
        service("web"),
    )
    cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=60s")
    address = cluster.get("service", "web")["spec"]["clusterIP"]
    until(lambda: "hello from web" in fetch(f"http://{address}"), what="the Service answers")
    return address


def test_the_worker_is_a_node_like_any_other(cluster):
    node = cluster.get("node", "worker-0")
    ready = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    assert ready["Ready"] == "True"
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert "taints" not in node["spec"]
    assert "worker-0" in cluster.kubectl("get", "nodes", "-l", "kubernetes.io/hostname=worker-0,!type")


def test_a_real_pod_has_an_address_of_the_cluster(cluster, web):
    plan = load_plan(cluster.name)
    status = cluster.get("pod", "web")["status"]
    assert status["phase"] == "Running"
    assert status["hostIP"] == plan.node_address
    assert fetch(f"http://{status['podIP']}") == "hello from web, version 1\n"


def test_a_service_answers_by_address_and_by_name_within_a_pod(cluster, web):
    for host in (web, "web", "web.default.svc.cluster.local"):
        said = cluster.kubectl("exec", "client", "--", "timeout", "5", "wget", "-qO-", f"http://{host}")
        assert said == "hello from web, version 1\n"
    names = cluster.kubectl("exec", "client", "--", "nslookup", "kubernetes.default.svc.cluster.local")
    assert str(load_plan(cluster.name).service_range[1]) in names


def test_a_pod_behind_a_service_reaches_itself_by_it(cluster, web):
    said = cluster.kubectl("exec", "web", "--", "timeout", "5", "wget", "-qO-", f"http://{web}")
    assert said == "hello from web, version 1\n"


def test_a_container_of_the_cloud_sees_pods_services_and_names(cluster, web):
    plan = load_plan(cluster.name)
    cloud = json.loads(cluster.overspill("status", "-o", "json").stdout)["cloud"]
    script = f"timeout 5 wget -qO- http://{web}; timeout 5 wget -qO- http://web.default.svc.cluster.local"
    done = subprocess.run(
        [
            *("podman", "--url", f"unix://{cloud['socket']}", "run", "--rm", "--network", cloud["network"]),
            *("--dns", plan.dns_address, BUSYBOX, "sh", "-c", script),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["hello from web, version 1"] * 2, done.stderr


def test_logs_come_from_the_kubelet_through_the_apiserver(cluster, web):
    cluster.apply(pod("talker", BUSYBOX, "sh", "-c", "echo some words; sleep 100000", **ON_WORKER))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
    assert cluster.kubectl("logs", "talker") == "some words\n"


def test_an_image_of_the_users_podman_runs_on_the_worker(cluster, tmp_path):
    name = "localhost/overspill-test/loaded:1"
    layer = tmp_path / "layer.tar"
    layer.write_bytes(layer_of({"bin/tool": File(pathlib.Path("/bin/busybox").read_bytes(), 0o755)}))
    write_archive(
        tmp_path / "image.tar", [Image(name=name, layers=[layer], command=("/bin/tool", "sleep", "100000"))]
    )
    subprocess.run(["podman", "load", "-q", "-i", tmp_path / "image.tar"], check=True, capture_output=True)
    try:
        missing = cluster.overspill("load-image", "localhost/overspill-test/nothing:1", check=False)
        assert missing.returncode == 3
        assert "podman images" in missing.stderr
        cluster.overspill("load-image", name)
    finally:
        subprocess.run(["podman", "rmi", name], check=True, capture_output=True)
    cluster.apply(pod("loaded", name, **ON_WORKER))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/loaded", "--timeout=60s")


def test_kubectl_keeps_what_it_caches_with_the_cluster(cluster, tmp_path):
    program, environment = kubectl_path(cluster.name)
    subprocess.run(
        [program, "get", "nodes"],
        env={**os.environ, **environment, "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    assert list(tmp_path.iterdir()) == []
    assert cluster_paths(cluster.name).root in pathlib.Path(environment["KUBECACHEDIR"]).parents


def test_up_again_changes_nothing(cluster):
    before = cluster.processes()
    assert {"etcd", "kube-apiserver", "kubelet", "containerd", "kube-proxy", "coredns", "podman"} <= set(
        before
    )
    cluster.overspill("up")
    assert cluster.processes() == before


KILLED = (
    {"etcd"},
    {"kube-apiserver"},
    {"containerd", "podman"},
    {
        "kubelet",
        "kube-proxy",
        "coredns",
        "kube-controller-manager",
        "kube-scheduler",
        "approver",
        "metrics-server",
    },
)


def test_up_repairs_whatever_was_killed(cluster, web, until):
    containers = cluster.get("pod", "web")["status"]["containerStatuses"]
    assert set.union(*KILLED) == set(cluster.processes())
    for names in KILLED:
        pids = [pid for name, pid in cluster.processes().items() if name in names]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda pids=pids: not any(map(started_at, pids)), what=f"{names} end")
        broken = cluster.overspill("status", "-o", "json", check=False)
        assert broken.returncode == 3
        assert {each["name"] for each in json.loads(broken.stdout)["processes"] if not each["alive"]} == names
        cluster.overspill("up")
        assert set(cluster.processes()) == set.union(*KILLED)
    cluster.kubectl("wait", "--for=condition=Ready", "node/worker-0", "pod/web", "--timeout=60s")
    until(lambda: fetch(f"http://{web}") == "hello from web, version 1\n", what="the Service answers again")
    after = cluster.get("pod", "web")["status"]["containerStatuses"]
    assert [each["containerID"] for each in after] == [each["containerID"] for each in containers]


def test_other_options_need_another_cluster(cluster):
    refused = cluster.overspill("up", "--workers", "0", check=False)
    assert refused.returncode == 1
    assert f"overspill down --name {cluster.name}" in refused.stderr


class Traces:
    """Everything of a cluster that could stay on the machine."""

    def __init__(self, name):
        self.name, self.plan, self.paths = name, load_plan(name), cluster_paths(name)
        known = marked(self.paths.root) | members(self.paths) | pids_in_cgroup(self.plan.cgroup)
        self.pids = {pid: started_at(pid) for pid in with_descendants(known)}
        self.cgroups = {self.plan.cgroup, *container_cgroups(self.pids)}

    def left(self):
        """What is there still, in words."""
        said = {
            f"process {pid}" for pid, started in self.pids.items() if started and started_at(pid) == started
        }
        said |= {f"process {pid} with our folder" for pid in marked(self.paths.root)}
        mine = (
            str(self.paths.root),
            self.plan.link,
            self.plan.network.removesuffix("0.0/16"),
            self.plan.cgroup,
        )
        for command in (
            "ip -o link",
            "ip -4 route show table all",
            "nft list ruleset",
            "cat /proc/self/mountinfo",
        ):
            lines = subprocess.run(
                command.split(), capture_output=True, text=True, check=True
            ).stdout.splitlines()
            said |= {f"{command}: {line}" for line in lines if any(word in line for word in mine)}
        for cgroup in self.cgroups:
            said |= {str(path) for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/{cgroup}")}
        if self.paths.root.exists():
            said.add(str(self.paths.root))
        return said


KERNEL_SETTINGS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")


def kernel_settings():
    return {name: pathlib.Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS}


def test_down_leaves_nothing_even_of_a_broken_cluster(needs_root, start_cluster):
    before = kernel_settings()
    with start_cluster("broken") as cluster:
        cluster.apply(pod("here", WEB[0], **ON_WORKER), pod("there", WEB[0], nodeName="virtual-node-eci-0"))
        cluster.kubectl("wait", "--for=condition=Ready", "pod/here", "pod/there", "--timeout=60s")
        traces = Traces(cluster.name)
        assert len(traces.pids) > 15
        assert len(traces.cgroups) > 1
        for name, pid in cluster.processes().items():
            if name in ("podman", "containerd", "kubelet", "kube-apiserver"):
                os.kill(pid, signal.SIGKILL)
    assert traces.left() == set()
    assert kernel_settings() == before


@pytest.mark.parametrize(
    "seen", ["cluster.json", "processes/etcd.json", "processes/containerd.json", "processes/kubelet.json"]
)
def test_an_interrupted_up_leaves_what_down_clears(needs_root, until, seen):
    name = f"cut-{os.getpid()}"
    paths = cluster_paths(name)
    up = subprocess.Popen(
        # A shell lets what it starts in the background ignore SIGINT, and so do its children.
        ["env", "--default-signal=INT", OVERSPILL, "up", "--name", name, "--virtual-nodes", "0"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until((paths.root / seen).exists, what=seen)
        os.killpg(up.pid, signal.SIGINT)
        _, said = up.communicate(timeout=60)
        assert (up.returncode, b"Traceback" in said) == (130, False), said.decode()
        traces = Traces(name)
    finally:
        subprocess.run([OVERSPILL, "down", "--name", name], check=True, capture_output=True)
    assert traces.left() == set()


def test_two_clusters_side_by_side(cluster, web, start_cluster, until):
    with start_cluster("second", "--virtual-nodes", "0") as second:
        one, other = load_plan(cluster.name), load_plan(second.name)
        assert one.network != other.network
        second.apply(pod("web", WEB[1], **ON_WORKER), service("web"))
        second.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
        address = second.get("service", "web")["spec"]["clusterIP"]
        until(
            lambda: fetch(f"http://{address}") == "hello from web, version 2\n", what="the second's Service"
        )
        assert fetch(f"http://{web}") == "hello from web, version 1\n"
    assert fetch(f"http://{web}") == "hello from web, version 1\n"
    cluster.kubectl("wait", "--for=condition=Ready", "node/worker-0", "--timeout=5s")
