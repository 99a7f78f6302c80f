"""Scale-in of virtual nodes: `kubectl scale` alone and the ritual, on the ECI path over Podman.

Whether something is left is asked of the emulator's bill and of Podman; whether pods were touched, of the ids
of their container groups.
"""

import json
import os
import pathlib
import signal
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest
from placement_world import ROOT
from test_kills import agent_pids

from overspill import names
from overspill.local.cloud import cloud_facts
from overspill.local.kubectl import kubectl_path
from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SET = "virtual-node-eci"
LAST = f"{SET}-3"
BUSYBOX = "localhost/overspill/busybox:1"
GROUP_ID = "k8s.aliyun.com/eci-instance-id"


@pytest.fixture(scope="module")
def elastic(needs_root, start_cluster):
    """A worker, and agents in its pods."""
    with start_cluster("scalein") as cluster:
        yield cluster


@pytest.fixture
def four(elastic, until):
    """Four virtual nodes, none of them on its way out, and a namespace whose pods run there."""
    scale(elastic, 4)
    until(lambda: ready(elastic) == {f"{SET}-{n}" for n in range(4)}, seconds=300, what="four nodes Ready")
    labels = {"virtual-node-affinity-injection": "enabled"}
    elastic.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vk", "labels": labels}})
    yield elastic
    elastic.kubectl("delete", "namespace", "vk", "--timeout=180s", timeout=200)
    until(lambda: not left(elastic), seconds=180, what="nothing left in the cloud")


def scale(cluster, replicas):
    cluster.kubectl("-n", "kube-system", "scale", "statefulset", SET, f"--replicas={replicas}")


def nodes(cluster):
    """The virtual nodes by name."""
    return {each["metadata"]["name"]: each for each in cluster.get("nodes", "-l", "type=virtual-kubelet")}


def condition(node, kind):
    return next((each for each in node["status"].get("conditions", ()) if each["type"] == kind), {})


def ready(cluster):
    """Names of virtual nodes that take pods."""
    return {
        name
        for name, node in nodes(cluster).items()
        if condition(node, "Ready").get("status") == "True" and not node["spec"].get("unschedulable")
    }


def billed(cluster):
    """Groups that cost money: id -> node."""
    told = json.loads(cluster.overspill("emulator bill", "--running", "-o", "json").stdout)["lines"]
    return {line["group"]: line for line in told}


def left(cluster):
    """What is left in the cloud: what the bill has, and what Podman has."""
    socket = cloud_facts(cluster_paths(cluster.name)).socket
    command = ["podman", "--remote", "--url", f"unix://{socket}", "ps", "--all", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [*billed(cluster), *(each["Names"] for each in json.loads(done.stdout))]


def pods(cluster, selector="app"):
    return cluster.get("pods", "-n", "vk", "-l", selector)


def groups(cluster, selector="app"):
    """Pod uid -> (container group, container ids) of running pods."""
    return {
        pod["metadata"]["uid"]: (
            pod["metadata"]["annotations"][GROUP_ID],
            [each["containerID"] for each in pod["status"]["containerStatuses"]],
        )
        for pod in pods(cluster, selector)
        if pod["status"]["phase"] == "Running" and not pod["metadata"].get("deletionTimestamp")
    }


def workload(name, replicas, *, kind="Deployment", node="", command=None, **spec):
    """Pods that are gone within a second; `node` is the one where they are to be."""
    container = {"name": "main", "image": BUSYBOX, "command": command or ["sleep", "infinity"]}
    pod_spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    if node:
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
        preferred = [{"weight": 100, "preference": term}]
        pod_spec["affinity"] = {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
        }
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec}
    selector = {"matchLabels": {"app": name}}
    if kind == "Job":
        pod_spec["restartPolicy"] = "Never"
        more = {"completions": replicas, "parallelism": replicas}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": "vk"},
            "spec": {**more, "template": template, **spec},
        }
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "vk"},
        "spec": {"replicas": replicas, "selector": selector, "template": template, **spec},
    }


def running(cluster, name, count):
    found = pods(cluster, f"app={name}")
    alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    return len(groups(cluster, f"app={name}")) == len(alive) == count


def agents(cluster):
    return {
        pod["metadata"]["name"]: pod
        for pod in cluster.get("pods", "-n", "kube-system", "-l", f"app.kubernetes.io/instance={SET}")
    }


def evict(cluster, agent, *, grace=None):
    """What `kubectl drain` of a worker asks for, or another that wants its room."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": agent, "namespace": "kube-system"},
        "deleteOptions": {} if grace is None else {"gracePeriodSeconds": grace},
    }
    path = f"/api/v1/namespaces/kube-system/pods/{agent}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def left_by(cluster, name):
    """Whether a node is gone with its lease and its agent."""
    lease = cluster.kubectl("get", "lease", name, "-n", "kube-node-lease", "--ignore-not-found")
    return name not in nodes(cluster) and not lease and name not in agents(cluster)


def test_kubectl_scale_alone_moves_the_pods_and_leaves_nothing(four, until):
    """A Deployment and a Job, which counts its evicted pods as no failure of its own."""
    four.apply(
        workload("web", 8),
        workload(
            "batch",
            4,
            kind="Job",
            backoffLimit=0,
            podFailurePolicy={
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
            },
        ),
    )
    until(lambda: running(four, "web", 8) and running(four, "batch", 4), seconds=180, what="12 pods")
    uid = nodes(four)[f"{SET}-3"]["metadata"]["uid"]
    scale(four, 1)
    until(lambda: all(left_by(four, f"{SET}-{n}") for n in (1, 2, 3)), seconds=300, what="three nodes gone")
    until(lambda: running(four, "web", 8) and running(four, "batch", 4), seconds=180, what="12 pods again")
    assert {pod["spec"]["nodeName"] for pod in pods(four)} == {f"{SET}-0"}
    assert len(billed(four)) == 12
    reasons = {
        event["reason"]
        for event in four.get("events", "-n", "default")
        if event["involvedObject"].get("uid") == uid
    }
    assert {"Decommissioning", "Decommissioned"} <= reasons


def test_a_budget_and_a_bare_pod_hold_the_node_for_a_while(four, until):
    node = f"{SET}-3"
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "held", "namespace": "vk"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "held"}}},
    }
    bare = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": "vk", "labels": {"app": "bare"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "infinity"]}],
        },
    }
    four.apply(budget, workload("held", 1, node=node), bare)
    until(lambda: running(four, "held", 1) and running(four, "bare", 1), seconds=120, what="two pods")
    before = groups(four)
    scale(four, 3)

    def told():
        return condition(nodes(four)[node], names.DECOMMISSIONING).get("message", "")

    until(
        lambda: "1 held by disruption budgets, 1 without a controller" in told(), what="the condition tells"
    )
    assert "2 container groups left" in told()
    assert condition(nodes(four)[node], "Ready")["status"] == "True"
    # On a busy machine a young agent is Ready half a minute before its kubelet API listens.
    exec_ = ("exec", "-n", "vk", "bare", "--", "echo", "served")
    until(lambda: four.kubectl(*exec_).strip() == "served", what="an agent that goes still serves")
    shown = four.overspill("status").stdout
    assert "SchedulingDisabled" in shown
    assert "1 held by disruption budgets" in shown
    assert groups(four) == before
    four.kubectl("delete", "pdb", "held", "-n", "vk")
    four.kubectl("delete", "pod", "bare", "-n", "vk")
    until(lambda: left_by(four, node), seconds=120, what="the node gone")
    until(lambda: running(four, "held", 1), seconds=120, what="the pod elsewhere")
    assert not {group for group, _ in before.values()} & set(billed(four))


def test_scaled_back_up_in_the_middle(four, until):
    """What still runs goes on as it is; a node that somebody else has cordoned stays cordoned."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "vk"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
    }
    four.apply(budget, workload("web", 8))
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods")
    before = groups(four)
    four.kubectl("cordon", f"{SET}-3")
    scale(four, 1)
    until(
        lambda: all(
            condition(nodes(four)[f"{SET}-{n}"], names.DECOMMISSIONING) and f"{SET}-{n}" not in ready(four)
            for n in (1, 2, 3)
        ),
        what="three nodes on their way out",
    )
    scale(four, 4)
    until(lambda: ready(four) == {f"{SET}-{n}" for n in (0, 1, 2)}, seconds=180, what="uncordoned")
    until(
        lambda: (
            not any(condition(node, names.DECOMMISSIONING) for node in nodes(four).values())
            and all(
                condition(node, "Ready")["status"] == "True"
                and not agents(four)[name]["metadata"].get("deletionTimestamp")
                for name, node in nodes(four).items()
            )
        ),
        seconds=180,
        what="all as before",
    )
    assert nodes(four)[f"{SET}-3"]["spec"]["unschedulable"]
    assert groups(four) == before
    four.kubectl("uncordon", f"{SET}-3")


def test_a_rolling_update_touches_no_container(four, until):
    four.apply(workload("web", 8))
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods")
    before, old = groups(four), {pod["metadata"]["uid"] for pod in agents(four).values()}
    four.kubectl("-n", "kube-system", "rollout", "restart", "statefulset", SET)
    four.kubectl("-n", "kube-system", "rollout", "status", "statefulset", SET, "--timeout=300s", timeout=320)
    until(lambda: ready(four) == {f"{SET}-{n}" for n in range(4)}, seconds=120, what="four nodes Ready")
    assert not old & {pod["metadata"]["uid"] for pod in agents(four).values()}
    assert groups(four) == before
    assert set(billed(four)) == {group for group, _ in before.values()}


@pytest.mark.matrix  # to the agent it is what a rolling update is
def test_an_evicted_agent_leaves_its_containers_to_the_next(four, until):
    """As when its worker is drained: the StatefulSet wants it back, so its node is not on its way out."""
    four.apply(workload("web", 8))
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods")
    before, old = groups(four), agents(four)[LAST]["metadata"]["uid"]
    evict(four, LAST)
    until(
        lambda: agents(four).get(LAST, {}).get("metadata", {}).get("uid") not in {None, old}, what="the next"
    )
    until(lambda: len(ready(four)) == 4, seconds=120, what="four nodes Ready")
    assert not condition(nodes(four)[LAST], names.DECOMMISSIONING)
    assert groups(four) == before
    assert set(billed(four)) == {group for group, _ in before.values()}


def test_the_ritual(four, until):
    """Drain, scale, delete what is left of the node: as the documentation of other virtual nodes says."""
    four.apply(workload("web", 8))
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods")
    gone = [f"{SET}-{n}" for n in (1, 2, 3)]
    four.kubectl("drain", *gone, timeout=300)
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods on one node")
    kept = groups(four)
    scale(four, 1)
    until(lambda: all(left_by(four, node) for node in gone), seconds=180, what="the nodes gone")
    four.kubectl("delete", "node", "--ignore-not-found", *gone)
    assert groups(four) == kept
    assert set(billed(four)) == {group for group, _ in kept.values()}


@pytest.fixture
def killed(four):
    """Kills the last agent in the middle of what it does."""

    def kill():
        for pid in agent_pids(four, LAST):
            os.kill(pid, signal.SIGKILL)

    return kill


@pytest.fixture
def evicted(four):
    """Evicts the last agent, which is on its way out already, with a second to go."""
    return lambda: evict(four, LAST, grace=1)


@pytest.fixture
def out_of_grace(four, until):
    """The last agent has little time to empty its node; what kills it is the kubelet."""

    def give(seconds):
        change = {
            "updateStrategy": {"rollingUpdate": {"partition": 3 if seconds < 3600 else 0}},
            "template": {"spec": {"terminationGracePeriodSeconds": seconds}},
        }
        four.kubectl(
            *("-n", "kube-system", "patch", "statefulset", SET, "--type=merge"),
            *("-p", json.dumps({"spec": change})),
        )

    give(20)

    def replaced():
        agent = agents(four).get(LAST, {"spec": {}})
        return agent["spec"].get("terminationGracePeriodSeconds") == 20 and LAST in ready(four)

    until(replaced, seconds=120, what="an agent with 20 s to go")
    yield lambda: None
    give(3600)


@pytest.mark.parametrize(
    "how", ["killed", *(pytest.param(how, marks=pytest.mark.matrix) for how in ("evicted", "out_of_grace"))]
)
def test_killed_in_the_middle_the_controller_finishes(four, until, how, request):
    """One agent is killed while a budget holds its node; its pod is on its way out, so that nobody starts it again."""
    node, end = LAST, request.getfixturevalue(how)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "held", "namespace": "vk"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "held"}}},
    }
    four.apply(budget, workload("held", 2, node=node))
    until(lambda: running(four, "held", 2), seconds=120, what="two pods")
    here = {pod["metadata"]["uid"] for pod in pods(four) if pod["spec"]["nodeName"] == node}
    assert here
    lost = {groups(four)[uid][0] for uid in here}
    scale(four, 3)
    until(lambda: condition(nodes(four)[node], names.DECOMMISSIONING), what="the node on its way out")
    assert agents(four)[node]["metadata"]["deletionTimestamp"]
    end()
    # The kubelet, which waits for the container's end, hears of a shorter grace after a minute or two.
    until(lambda: node not in agents(four), seconds=300, what="no agent")
    assert node in nodes(four)
    assert lost <= set(billed(four))

    def goes_on():
        return "the controller goes on" in condition(nodes(four)[node], names.DECOMMISSIONING).get(
            "message", ""
        )

    until(goes_on, seconds=180, what="the controller takes over")
    assert lost <= set(billed(four)), "the budget holds for the controller as well"
    four.kubectl("delete", "pdb", "held", "-n", "vk")
    until(lambda: left_by(four, node), seconds=180, what="the node gone")
    until(lambda: running(four, "held", 2), seconds=120, what="the pods elsewhere")
    assert not lost & set(billed(four))


def test_a_deleted_statefulset_is_warned_of_and_leaves_nothing(four, until):
    four.apply(workload("web", 4))
    until(lambda: running(four, "web", 4), seconds=120, what="4 pods")
    kept = four.get("statefulset", SET, "-n", "kube-system")
    told = said(four, "delete", "statefulset", SET, "-n", "kube-system")
    assert "Warning: " in told
    assert "--replicas=0" in told
    until(lambda: not nodes(four), seconds=300, what="no virtual node")
    until(lambda: not left(four), seconds=60, what="nothing in the cloud")
    for key in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
        kept["metadata"].pop(key, None)
    kept.pop("status")
    four.apply(kept)
    until(lambda: running(four, "web", 4), seconds=300, what="4 pods again")


@pytest.fixture
def costly(four, until):
    """A node that has container groups and says so, and another one that has none."""
    four.apply(workload("web", 2, node=LAST))
    until(lambda: running(four, "web", 2), seconds=120, what="2 pods")
    busy = {pod["spec"]["nodeName"] for pod in pods(four)}

    def told():
        found = {name: condition(node, names.CONTAINER_GROUPS) for name, node in nodes(four).items()}
        return {name: each["status"] for name, each in found.items()} == {
            name: str(name in busy) for name in found
        }

    until(told, what="the condition")
    return min(busy), min(set(nodes(four)) - busy)


def test_who_deletes_a_node_that_costs_money_is_warned(four, costly):
    node, empty = costly
    told = said(four, "delete", "node", node, "--dry-run=server")
    assert f"virtual node {node} has container groups" in told
    assert "go on costing money" in told
    assert "Warning" not in said(four, "delete", "node", empty, "--dry-run=server")


def test_or_refused_where_that_is_set(four, costly, until, tmp_path):
    """By the component as a user has it in an overlay; it refuses what the policies alone warn of, and nothing else."""
    node, empty = costly
    of_all = ("delete", "statefulset", SET, "-n", "kube-system")
    protection = os.path.relpath(ROOT / "deploy/protection", tmp_path)
    overlay = {"resources": [protection], "components": [f"{protection}/deny"]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
    four.kubectl("apply", "-k", str(tmp_path))
    try:
        until(lambda: said(four, *of_all, "--dry-run=server", code=1), what="a refusal")
        before = groups(four)
        assert f"virtual node {node} has container groups" in said(four, "delete", "node", node, code=1)
        assert "--replicas=0" in said(four, *of_all, code=1)
        assert node in ready(four)
        assert groups(four) == before
        assert said(four, "delete", "node", empty, "--dry-run=server") == ""
        # Whoever empties it first meets no refusal: the agent deletes its own node.
        scale(four, 3)
        until(lambda: left_by(four, LAST), seconds=120, what="the node gone")
    finally:
        four.kubectl("apply", "-k", str(ROOT / "deploy/protection"))
    until(lambda: "Warning" in said(four, *of_all, "--dry-run=server"), what="only a warning again")


def said(cluster, *args, code=0):
    """What kubectl says beside its answer, when it ends with this code."""
    program, environment = kubectl_path(cluster.name)
    done = subprocess.run(
        [program, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def with_token(cluster, account, pod):
    """Dry requests with the token that a pod has mounted: "" or why they are refused."""
    uid = cluster.get("pod", pod, "-n", "kube-system")["metadata"]["uid"]
    token = cluster.kubectl(
        *("create", "token", account, "-n", "kube-system", "--bound-object-kind=Pod"),
        *(f"--bound-object-name={pod}", f"--bound-object-uid={uid}"),
    ).strip()
    endpoint = json.loads(cluster.overspill("status", "-o", "json").stdout)["endpoint"]
    tls = ssl.create_default_context(cafile=cluster_paths(cluster.name).pki / "ca.crt")

    def ask(method, path, body=None):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{endpoint}{path}?dryRun=All", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=tls, timeout=30):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return json.loads(error.read())["message"]

    return ask


LABEL = {"metadata": {"labels": {"tried": "yes"}}}


def test_an_agents_token_is_good_for_its_own_node_alone(four, until):
    as_agent = with_token(four, SET, f"{SET}-1")
    four.apply(workload("web", 8))
    until(lambda: running(four, "web", 8), seconds=120, what="8 pods")
    by_node = {
        pod["spec"]["nodeName"]: f"/api/v1/namespaces/vk/pods/{pod['metadata']['name']}" for pod in pods(four)
    }
    status = {"status": {"message": "tried"}}
    lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

    def told(node):
        return [
            as_agent("PATCH", f"/api/v1/nodes/{node}", LABEL),
            as_agent("PATCH", f"/api/v1/nodes/{node}/status", LABEL),
            as_agent("DELETE", f"/api/v1/nodes/{node}"),
            as_agent("DELETE", f"{lease}/{node}"),
        ]

    assert told(f"{SET}-1") == [""] * 4
    for other in (f"{SET}-2", "worker-0"):
        assert all("an agent writes its own Node and Lease only" in each for each in told(other)), told(other)
    own, other = by_node[f"{SET}-1"], by_node[f"{SET}-2"]
    assert [as_agent("PATCH", f"{own}/status", status), as_agent("DELETE", own)] == ["", ""]
    for refused in (as_agent("PATCH", f"{other}/status", status), as_agent("DELETE", other)):
        assert "an agent writes pods of its own node only" in refused


def test_the_controllers_token_is_good_for_virtual_nodes_alone(four):
    pods = four.get("pods", "-n", "kube-system", "-l", "app.kubernetes.io/component=controller")
    ask = with_token(four, "overspill-controller", pods[0]["metadata"]["name"])
    for node, refused in ((f"{SET}-1", ""), ("worker-0", "the controller writes virtual nodes only")):
        path = f"/api/v1/nodes/{node}"
        for told in (ask("PATCH", path, LABEL), ask("PATCH", f"{path}/status", LABEL), ask("DELETE", path)):
            assert refused in told if refused else not told, told


@pytest.mark.parametrize("component", ["agent", "controller"])
def test_ours_run_as_nobody_with_nothing_to_write_to(four, component):
    """As their processes are, not as their manifests say."""
    found = four.get("pods", "-n", "kube-system", "-l", f"app.kubernetes.io/component={component}")
    for pid in agent_pids(four, found[0]["metadata"]["name"]):
        status = dict(
            line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert status["Uid"].split() == ["65532"] * 4
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        mounts = [line.split() for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        (root,) = [fields for fields in mounts if fields[4] == "/"]
        assert "ro" in root[5].split(",")
