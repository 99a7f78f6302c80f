"""A cluster as `overspill up` makes it by default: virtual nodes on ECI's API, emulated over Podman."""

import json
import secrets
import subprocess
import urllib.request

import pytest
from cluster_secrets import leaked
from kubectl_world import SPACE, Kubectl, forwarded, pod, talk

from overspill.local.images import BUSYBOX, WEB
from overspill.local.paths import cluster_paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def emulated(needs_root, start_cluster):
    """Without a worker, so that the agents are processes of this machine."""
    with start_cluster("emulated", "--workers", "0") as cluster:
        yield cluster


def told(cluster):
    return json.loads(cluster.overspill("status", "-o", "json").stdout)


def billed(cluster):
    return json.loads(cluster.overspill("emulator bill", "--running", "-o", "json").stdout)["lines"]


def test_status_has_what_an_eci_client_needs(emulated):
    found = told(emulated)
    assert found["backend"] == "eci"
    facts = found["emulator"]
    assert facts["endpoint"].startswith("https://")
    assert (facts["region"], facts["accessKeyId"]) == ("cn-hangzhou", "emulator")
    assert facts["accessKeySecret"]
    assert facts["vSwitchIds"] == ["vsw-a", "vsw-b"]
    assert facts["securityGroupId"] == "sg-local"


def test_a_pod_is_a_container_group_that_is_billed_while_it_is_there(emulated, until):
    """It is handed a Secret's content as well, which the scan of this cluster's logs looks for afterwards."""
    secret = {
        "metadata": {"name": "keys", "namespace": "default"},
        "stringData": {"KEY": secrets.token_hex(16)},
    }
    emulated.apply({"apiVersion": "v1", "kind": "Secret", **secret})
    container = {"name": "web", "image": WEB[0], "envFrom": [{"secretRef": {"name": "keys"}}]}
    container["volumeMounts"] = [{"name": "keys", "mountPath": "/keys"}]
    spec = {"nodeName": "virtual-node-eci-0", "terminationGracePeriodSeconds": 1}
    spec |= {"containers": [container], "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}]}
    emulated.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": spec}
    )
    emulated.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    notes = emulated.get("pod", "web")["metadata"]["annotations"]
    (line,) = billed(emulated)
    assert line["group"] == notes["k8s.aliyun.com/eci-instance-id"]
    assert json.loads(emulated.overspill("emulator status").stdout)["groups"] == {"Running": 1}
    emulated.kubectl("delete", "pod", "web", "--timeout=60s")
    until(lambda: not billed(emulated), what="nothing costs money any more")


@pytest.fixture(scope="module")
def group(emulated, until):
    """A container group that serves a file of its own."""
    emulated.kubectl("create", "namespace", SPACE)
    until(lambda: emulated.kubectl("-n", SPACE, "get", "serviceaccount", "default"), what="account")
    script = "echo begun; mkdir /tmp/www; echo served > /tmp/www/index.html; exec httpd -f -p 80 -h /tmp/www"
    serves = {"httpGet": {"port": 80}, "periodSeconds": 1}
    emulated.apply(pod("group", "sh", "-c", script, readinessProbe=serves))
    emulated.kubectl("-n", SPACE, "wait", "--for=condition=Ready", "pod/group", "--timeout=60s")
    yield "group"
    emulated.kubectl("-n", SPACE, "delete", "pod", "group", "--timeout=60s")


@pytest.mark.parametrize("websockets", [True, False], ids=["websockets", "spdy"])
def test_what_kubectl_does_with_a_container_group(emulated, group, websockets, tmp_path):
    kubectl = Kubectl(emulated, websockets=websockets)
    assert kubectl.said("logs", group, "--tail=1") == "begun\n"
    done = kubectl.run("exec", "-i", group, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in")
    assert (done.returncode, done.stdout) == (7, b"in")
    assert done.stderr.startswith(b"err\n")
    script = b"test -t 0 && echo is-$((6*7))-terminal; exit 3\n"
    assert talk(kubectl, "exec", "-it", group, "--", "sh", script=script, ends=b"is-42-terminal") == 3
    with kubectl.started("logs", "-f", group, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(secrets.token_bytes(1 << 20))
    kubectl.said("cp", str(sent), f"{group}:/tmp/copied")
    kubectl.said("cp", f"{group}:/tmp/copied", str(back))
    assert back.read_bytes() == sent.read_bytes()
    with forwarded(kubectl, group, 80) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
        assert answer.read() == b"served\n"
    done = kubectl.run("attach", group)
    assert done.returncode == 1
    assert b"pods on this node run at eci, which has no attach" in done.stderr


def test_a_group_keeps_its_images_and_says_so(emulated, group, until):
    emulated.kubectl("-n", SPACE, "set", "image", f"pod/{group}", f"c={WEB[1]}")

    def told():
        fields = f"involvedObject.name={group},reason=NotHonoured"
        return emulated.get("events", "-n", SPACE, "--field-selector", fields)

    (event,) = until(told, what="an Event")
    assert event["message"].startswith("ECI keeps the images that a group was made with: image of c;")
    (status,) = emulated.get("pod", group, "-n", SPACE)["status"]["containerStatuses"]
    assert (status["image"], status["restartCount"]) == (BUSYBOX, 0)


def test_the_scan_of_a_clusters_logs_finds_what_is_planted(emulated):
    secret = told(emulated)["emulator"]["accessKeySecret"]
    log = cluster_paths(emulated.name).logs / "planted.log"
    log.write_text(f"the key is {secret}\n")
    try:
        assert leaked(emulated) == [f"{log}: the key is <secret>"]
    finally:
        log.unlink()


def test_what_the_cloud_refuses_is_seen_at_the_pod(emulated, until):
    emulated.overspill("emulator faults add", "no-stock")
    spec = {"nodeName": "virtual-node-eci-0", "containers": [{"name": "web", "image": WEB[0]}]}
    emulated.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "unlucky", "namespace": "default"},
            "spec": spec,
        }
    )

    def condition():
        found = emulated.get("pod", "unlucky")["status"].get("conditions", ())
        return next((each for each in found if each["type"] == "InstanceProvisioned"), None)

    seen = until(condition, what="InstanceProvisioned=False")
    assert (seen["status"], seen["reason"]) == ("False", "NoStock")
    emulated.overspill("emulator faults clear")
    emulated.kubectl("wait", "--for=condition=Ready", "pod/unlucky", "--timeout=120s")
    emulated.kubectl("delete", "pod", "unlucky", "--grace-period=1", "--timeout=60s")


def test_a_lowered_deadline_ends_the_group_and_what_it_costs(emulated, until):
    """ECI has no call to change a group's deadline."""
    spec = {"nodeName": "virtual-node-eci-0", "terminationGracePeriodSeconds": 1, "restartPolicy": "Never"}
    spec["containers"] = [{"name": "web", "image": WEB[0]}]
    meta = {"name": "long", "namespace": "default"}
    emulated.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    emulated.kubectl("wait", "--for=condition=Ready", "pod/long", "--timeout=60s")
    emulated.kubectl("patch", "pod", "long", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')

    def told():
        return emulated.get("pod", "long")["status"]

    until(lambda: told()["phase"] == "Failed", what="its end")
    assert told()["reason"] == "DeadlineExceeded"
    (container,) = told()["containerStatuses"]
    # ECI forgets a deleted group: how it ended is known if a look came in between.
    assert container["state"]["terminated"]["reason"] in {"ContainerStatusUnknown", "Completed"}
    until(
        lambda: all(line["name"] != "default-long" for line in billed(emulated)),
        what="it costs no money any more",
    )
    emulated.kubectl("delete", "pod", "long", "--timeout=60s")


def test_another_clusters_emulator_is_not_asked(emulated, control_plane):
    refused = control_plane.overspill("emulator bill", check=False)
    assert refused.returncode == 3
    assert "without an emulator" in refused.stderr


def test_a_node_is_labelled_with_where_its_vswitches_are(emulated):
    labels = emulated.get("node", "virtual-node-eci-0")["metadata"]["labels"]
    assert labels["topology.kubernetes.io/region"] == "cn-hangzhou"
    assert "topology.kubernetes.io/zone" not in labels, "its vSwitches are in two zones"


def test_what_a_claim_holds_is_there_for_the_next_pod(emulated, until):
    disk = {"driver": "diskplugin.csi.alibabacloud.com", "volumeHandle": "d-e2e", "fsType": "ext4"}
    access = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    emulated.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "disk"},
            "spec": {"capacity": {"storage": "20Gi"}, "csi": disk, **access},
        }
    )
    run_once(emulated, "writer", "echo kept > /data/file")
    waiting = "persistentvolumeclaims 'data' not found"
    until(
        lambda: waiting in emulated.kubectl("get", "events", "-o", "json"), what="the pod to miss its claim"
    )
    resources = {"requests": {"storage": "20Gi"}}
    emulated.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "default"},
            "spec": {"volumeName": "disk", "resources": resources, **access},
        }
    )
    emulated.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=120s")
    run_once(emulated, "reader", "cat /data/file")
    emulated.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=120s")
    assert emulated.kubectl("logs", "reader") == "kept\n"
    emulated.kubectl("delete", "pod/writer", "pod/reader", "pvc/data", "pv/disk", "--timeout=60s")


def run_once(cluster, name, script):
    """A pod on the virtual node that runs a script beside a sidecar, with the claim `data`."""
    image = {"image": WEB[0], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    stay = "trap exit TERM; while :; do sleep 0.1; done"
    spec = {
        "nodeName": "virtual-node-eci-0",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "initContainers": [
            {"name": "beside", "restartPolicy": "Always", "command": ["/bin/sh", "-c", stay], **image}
        ],
        "containers": [{"name": "main", "command": ["/bin/sh", "-c", script], **image}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
    )


NODES = ("virtual-node-eci-0", "virtual-node-eci-1")


@pytest.fixture
def two_nodes(emulated, until):
    """A second agent, with a Deployment whose pods are on both nodes."""
    emulated.overspill("up --virtual-nodes 2")
    labels = {"virtual-node-affinity-injection": "enabled"}
    emulated.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "both", "labels": labels}})
    until(lambda: emulated.kubectl("-n", "both", "get", "serviceaccount", "default"), what="account")
    container = {"name": "web", "image": WEB[0]}
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    meta = {"name": "web", "namespace": "both"}
    emulated.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    until(lambda: set(groups_by_node(emulated, 4)) == set(NODES), seconds=120, what="pods on both nodes")
    yield emulated
    emulated.overspill("up --virtual-nodes 1", timeout=200)
    emulated.kubectl("delete", "namespace", "both", "--timeout=60s")
    until(lambda: not costly(emulated), what="nothing costs money any more")


def costly(cluster):
    """Groups of its namespace that cost money."""
    return {line["group"] for line in billed(cluster) if line["name"].startswith("both-")}


def groups_by_node(cluster, count):
    """Node -> groups of the pods that are Ready, once there are so many."""
    found = {}
    for each in cluster.get("pods", "-n", "both"):
        ready = {c["type"]: c["status"] for c in each["status"].get("conditions", ())}.get("Ready") == "True"
        if ready and not each["metadata"].get("deletionTimestamp"):
            group = each["metadata"]["annotations"]["k8s.aliyun.com/eci-instance-id"]
            found.setdefault(each["spec"]["nodeName"], set()).add(group)
    return found if sum(map(len, found.values())) == count else {}


def test_an_agent_too_many_empties_its_node_before_it_ends(two_nodes, until):
    """Plain processes have no StatefulSet: `overspill up` with fewer nodes marks those that are to go."""
    stays, goes = NODES
    before = groups_by_node(two_nodes, 4)
    two_nodes.overspill("up --virtual-nodes 1", timeout=200)
    # At once: the command waits for the agent.
    assert goes not in {each["metadata"]["name"] for each in two_nodes.get("nodes")}
    assert goes not in two_nodes.kubectl("get", "leases", "-n", "kube-node-lease", "-o", "name")
    assert goes not in two_nodes.processes()
    assert not before[goes] & costly(two_nodes)
    after = until(lambda: groups_by_node(two_nodes, 4), seconds=120, what="four pods on the node that stays")
    assert set(after) == {stays}
    assert before[stays] <= after[stays], "its pods were not touched"
    assert costly(two_nodes) == after[stays]


@pytest.mark.matrix  # two minutes of waiting; the controller that finishes is tried in test_scale_in as well
def test_an_agent_that_could_not_empty_its_node_in_time_leaves_it_to_the_controller(two_nodes, until):
    _, goes = NODES
    budget = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}}
    meta = {"name": "web", "namespace": "both"}
    two_nodes.apply(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget}
    )
    held = groups_by_node(two_nodes, 4)[goes]
    said = two_nodes.overspill("up --virtual-nodes 1", timeout=200).stderr
    assert f"{goes} was not empty after 60 s; the controller goes on" in said
    assert "held by disruption budgets" in two_nodes.overspill("status").stdout
    assert held <= costly(two_nodes)
    two_nodes.kubectl("delete", "pdb", "web", "-n", "both")
    until(
        lambda: goes not in {each["metadata"]["name"] for each in two_nodes.get("nodes")},
        seconds=120,
        what="the node gone",
    )
    assert not held & costly(two_nodes)
