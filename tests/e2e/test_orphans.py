"""Container groups that lose their pod while nobody looks: found, told, deleted, and the bill stops."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess

import pytest
from placement_world import OVERSPILL, ROOT

from overspill.kube.resources import PODS
from overspill.local.images import WEB
from overspill.local.kubectl import kubectl_path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NODE = "virtual-node-eci-0"
QUICK = ("--orphan-quiet-seconds=3", "--orphan-period-seconds=0.5")


@pytest.fixture(scope="module")
def emulated(needs_root, start_cluster):
    """Agents and controller are processes of this machine, so that they can be killed and replaced by hand."""
    with start_cluster("orphans", "--workers", "0") as cluster:
        # The apiserver's list of pods must not be empty, or nobody believes it.
        cluster.apply(web("bystander", nodeSelector={"nowhere": "at-all"}))
        yield cluster


def web(name, **spec):
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": WEB[0]}], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def billed(cluster):
    lines = json.loads(cluster.overspill("emulator bill", "--running", "-o", "json").stdout)["lines"]
    return {line["group"] for line in lines}


def run_pod(cluster, name):
    """Run a pod on the virtual node; returns its group."""
    cluster.apply(web(name, nodeName=NODE))
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")
    return cluster.get("pod", name)["metadata"]["annotations"]["k8s.aliyun.com/eci-instance-id"]


def command_of(pid):
    """Arguments and environment of a process."""
    argv, environ = (
        pathlib.Path("/proc", str(pid), file).read_text().split("\0")[:-1] for file in ("cmdline", "environ")
    )
    return argv, dict(each.split("=", 1) for each in environ)


class Operator:
    """Who runs our commands with the flags and credentials that a controller has."""

    def __init__(self, flags, environment):
        self.flags, self.environment = flags, environment

    @contextlib.contextmanager
    def controller(self, log, *flags):
        """One with other flags."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                [OVERSPILL, "controller", *self.flags, *flags], stdout=out, stderr=out, env=self.environment
            )
        try:
            yield log
        finally:
            process.terminate()
            process.wait(30)

    def orphans(self, *args):
        """`overspill orphans` with the flags and credentials of the controller."""
        given = [each for each in self.flags if each.startswith(("--kubeconfig", "--backend"))]
        return subprocess.run(
            [OVERSPILL, "orphans", *args, *given],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def controller(emulated):
    """The cluster's controller, taken down; it runs again afterwards."""
    pid = emulated.processes()["overspill-controller"]
    argv, environment = command_of(pid)
    os.kill(pid, signal.SIGKILL)
    yield Operator(argv[argv.index("controller") + 1 :], environment)
    emulated.overspill("up")


@pytest.fixture
def orphan(emulated, until):
    """The group of a pod that was deleted by force while its agent was dead; another pod's beside it."""
    kept, lost = run_pod(emulated, "kept"), run_pod(emulated, "lost")
    os.kill(emulated.processes()[NODE], signal.SIGKILL)
    emulated.kubectl("delete", "pod", "lost", "--force", "--grace-period=0")
    assert billed(emulated) == {kept, lost}
    yield lost
    emulated.overspill("up")
    emulated.kubectl("delete", "pod", "kept", "--timeout=120s")
    until(lambda: not billed(emulated), what="nothing costs money any more")


def test_an_orphan_is_listed_with_its_price_and_deleted_only_when_asked(emulated, controller, orphan, until):
    def orphans(command, *args, check=True):
        return emulated.overspill(f"orphans {command}", *args, check=check)

    def listed():
        return {each["group"]: each for each in json.loads(orphans("list", "-o", "json").stdout)}

    # The control plane takes a while to say that a node has no agent any more.
    found = until(
        lambda: len(seen := listed()) == 2 and seen, what="an orphan and an adoptable group", seconds=180
    )
    assert found[orphan]["state"] == "Orphan"
    assert float(found[orphan]["pricePerHour"]) > 0
    assert [each["state"] for id_, each in found.items() if id_ != orphan] == ["Adoptable"]
    table = orphans("list")
    assert orphan in table.stdout
    assert "orphans cost" in table.stderr

    assert "Nothing was deleted" in orphans("delete").stderr
    assert orphan in billed(emulated)
    assert orphans("delete", "--yes", "--dry-run", check=False).returncode == 2

    assert f"containergroup {orphan} deleted" in orphans("delete", "--yes").stdout
    until(lambda: orphan not in billed(emulated), what="an end of its bill")
    assert len(billed(emulated)) == 1


def test_the_controller_collects_an_orphan_and_nothing_else(emulated, controller, orphan, until, tmp_path):
    with controller.controller(tmp_path / "controller.log", *QUICK):
        until(lambda: orphan not in billed(emulated), what="an end of the orphan's bill", seconds=120)

        def told():
            events = emulated.get(
                "events", "-n", "default", "--field-selector", f"involvedObject.name={NODE}"
            )
            return [
                each for each in events if each["reason"] == "OrphanDeleted" and orphan in each["message"]
            ]

        (event,) = until(told, what="an Event")
        assert "default/lost" in event["message"]
    assert len(billed(emulated)) == 1


@pytest.fixture
def second_cluster(control_plane, emulated, until, tmp_path):
    """Another cluster of the same account whose virtual node has the same name."""
    control_plane.kubectl("apply", "-k", str(ROOT / "deploy/placement/definitions"))  # for the controller
    _, environ = command_of(emulated.processes()[NODE])
    options = json.loads(emulated.overspill("status", "-o", "json").stdout)["emulator"]
    flags = [
        "--backend=eci",
        f"--backend-option=region={options['region']}",
        f"--backend-option=endpoint={options['endpoint']}",
        f"--backend-option=vSwitchIds={','.join(options['vSwitchIds'])}",
    ]
    kubeconfig = kubectl_path(control_plane.name)[1]["KUBECONFIG"]
    log = (tmp_path / "agent.log").open("ab")
    process = subprocess.Popen(
        [
            *(OVERSPILL, "agent", f"--node-name={NODE}", f"--kubeconfig={kubeconfig}", *flags),
            *(
                "--health-address=127.0.0.1:0",
                "--kubelet-address=127.0.0.1:0",
                "--kubelet-certificate=self-signed",
            ),
        ],
        stdout=log,
        stderr=log,
        env=environ,
    )
    try:
        control_plane.kubectl("wait", "--for=create", f"node/{NODE}", "--timeout=60s")
        control_plane.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=60s")
        yield control_plane, process, Operator([f"--kubeconfig={kubeconfig}", *flags], environ)
    finally:
        process.kill()
        process.wait(30)
        log.close()
        control_plane.kubectl("delete", "node", NODE, "--ignore-not-found")
        control_plane.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")


def test_two_clusters_of_one_account_with_equal_node_names_leave_each_other_alone(
    emulated, second_cluster, until, tmp_path
):
    other, agent, operator = second_cluster
    mine = run_pod(emulated, "mine")
    theirs, lost = run_pod(other, "theirs"), run_pod(other, "lost")
    agent.kill()
    agent.wait(30)
    other.kubectl("delete", "pod", "lost", "--force", "--grace-period=0")
    listed = json.loads(operator.orphans("list", "--all", "-o", "json").stdout)
    assert {each["group"] for each in listed} == {theirs, lost}
    log = tmp_path / "controller.log"
    with operator.controller(log, *QUICK, "--health-address=127.0.0.1:0", "--lease-name=orphans-test"):
        until(lambda: lost not in billed(emulated), what="an end of the lost one's bill", seconds=120)
    assert billed(emulated) == {mine, theirs}
    assert emulated.get("pod", "mine")["status"]["phase"] == "Running"
    emulated.kubectl("delete", "pod", "mine", "--timeout=60s")
    other.kubectl("delete", "pod", "theirs", "--force", "--grace-period=0")
    assert operator.orphans("delete", "--yes", "--force").returncode == 0
    until(lambda: not billed(emulated), what="nothing costs money any more")


def test_on_a_worker_the_controllers_pods_look_at_podman(cluster, until):
    selector = "app.kubernetes.io/component=controller"

    def looked():
        for pod in cluster.get("pods", "-n", "kube-system", "-l", selector):
            path = PODS.path(namespace="kube-system", name=f"{pod['metadata']['name']}:10259")
            series = cluster.kubectl("get", "--raw", f"{path}/proxy/metrics")
            if 'overspill_container_groups{state="Orphan"} 0.0' in series:
                return True
        return False

    until(looked, what="a controller that has looked at Podman", seconds=180)
