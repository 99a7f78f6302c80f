"""A cluster for the tests of placement: simulated nodes of several pools, controllers, and a watch that sees all."""

import collections
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from accounts import kubeconfig_of
from placement_ledger import COST, RANK, Ledger, active, gated, pool_of, ready, revision
from placement_manifests import policy

from chaos.world import CLOCK_FOLDER, set_clock
from overspill.local.kubectl import kubectl_path

ROOT = Path(__file__).parents[2]
OVERSPILL = str(Path(sys.executable).parent / "overspill")
FLAGS = ("--workers", "0", "--virtual-nodes", "0", "--backend", "simulated")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A controller or agent, ended by its id."""

    def __init__(self, *argv, log, kubeconfig, program=(OVERSPILL,)):
        self.log = Path(log)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen([*program, *argv], stdout=out, stderr=out, env=environment)
        self.pid = self._process.pid

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def stop(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Controller(Process):
    """One replica of the controller."""

    def __init__(self, *flags, **where):
        self.port = free_port()
        super().__init__("controller", "--health-address", f"127.0.0.1:{self.port}", *flags, **where)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def total(self, series):
        """The sum of a counter over its labels."""
        return sum(value for name, value in self.metrics().items() if re.match(rf"{series}(\{{|$)", name))

    def gate_seconds(self, quantile):
        """The bound below which so many of the pods waited for their pool, of those that this replica placed."""
        found = {
            float(name.partition('le="')[2].partition('"')[0]): value
            for name, value in self.metrics().items()
            if name.startswith("overspill_placement_gate_seconds_bucket")
        }
        return min(bound for bound, count in found.items() if count >= quantile * found[float("inf")])

    def leads(self):
        return "everything is listed" in self.log.read_text()


class World:
    """The cluster, its nodes and controllers."""

    def __init__(self, cluster, until, folder, program, environment):
        self.cluster, self.until = cluster, until
        self.program, self.environment = program, {**os.environ, **environment}
        self.folder = folder
        self.kubeconfig = environment["KUBECONFIG"]
        self._stack = contextlib.ExitStack()
        self.controllers = []
        self._accounts = {}
        self._numbers = iter(range(1000))

    def node(self, name, *flags, label=None, pods=110, taint=True):
        process = Process(
            "agent",
            *(
                "--node-name",
                name,
                "--backend",
                "simulated",
                "--label",
                f"pool={label or name.rpartition('-')[0]}",
            ),
            *("--taint", str(taint).lower(), "--pods", str(pods), "--health-address", "127.0.0.1:0"),
            *("--kubelet-address", "127.0.0.1:0"),
            *("--backend-option", "log_seconds=0", *flags),
            log=self.folder / f"{name}.log",
            kubeconfig=self.kubeconfig,
        )
        self._stack.callback(process.stop)
        return process

    def account(self, name):
        """A kubeconfig with the rights that the manifests give, and no more."""
        if name not in self._accounts:
            path = self.folder / f"{name}.kubeconfig"
            self._accounts[name] = kubeconfig_of(self.cluster, name, path)
        return self._accounts[name]

    def controller(self, *flags, skew=0):
        """A replica; `skew` is by how many seconds its clock is wrong, and flags need the administrator's rights."""
        number = next(self._numbers)
        clock = self.folder / f"clock-{number}"
        set_clock(clock, ahead=skew)
        skewed = ("env", f"PYTHONPATH={CLOCK_FOLDER}", f"CLOCK={clock}", OVERSPILL)
        process = Controller(
            *flags,
            log=self.folder / f"controller-{number}.log",
            kubeconfig=self.kubeconfig if flags else self.account("overspill-controller"),
            program=skewed if skew else (OVERSPILL,),
        )
        self.controllers.append(process)
        self._stack.callback(process.stop)
        return process

    def guard(self):
        """The process that lets pods go while no controller leads."""
        process = Process(
            *("guard", "--health-address", "127.0.0.1:0"),
            log=self.folder / f"guard-{next(self._numbers)}.log",
            kubeconfig=self.account("overspill-guard"),
        )
        self._stack.callback(process.stop)
        self.until(lambda: "guarding" in process.log.read_text(), what="a guard that knows all")
        return process

    @property
    def current(self):
        """The controller that was started last."""
        return self.controllers[-1]

    def leading(self, process, seconds=60):
        self.until(process.leads, seconds=seconds, what="controller that leads")
        return process

    def replace_apiserver(self):
        """Kill it, and start another."""
        os.kill(self.cluster.processes()["kube-apiserver"], signal.SIGKILL)
        self.cluster.overspill("up", *FLAGS, timeout=300)

    @contextlib.contextmanager
    def cordoned(self, *nodes):
        """Nodes that take no pods for a while."""
        self.cluster.kubectl("cordon", *nodes)
        try:
            yield
        finally:
            self.cluster.kubectl("uncordon", *nodes)

    def ready_nodes(self, *names):
        def all_ready():
            found = {node["metadata"]["name"]: node for node in self.cluster.get("nodes")}
            return all(
                name in found
                and ready(found[name])
                and not any(
                    t["key"].startswith("node.kubernetes.io") for t in found[name]["spec"].get("taints", ())
                )
                for name in names
            )

        self.until(all_ready, what=f"nodes {names}", seconds=90)

    def close(self):
        self._stack.close()


def apply_accounts(cluster):
    """What the controller and its guard may do, without these two."""
    for name in ("rbac.yaml", "guard.yaml"):
        found = yaml.safe_load_all((ROOT / "deploy/placement" / name).read_text())
        cluster.apply(*(each for each in found if each["kind"] != "Deployment"))


def apply_gates(cluster):
    """Definitions and gates, without the controller."""
    cluster.kubectl("apply", "-k", str(ROOT / "deploy/placement/definitions"))
    for kind in ("policies", "indexes"):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/placement{kind}.placement.overspill.dev")
    cluster.kubectl("apply", "-f", str(ROOT / "deploy/placement/gate.yaml"))


numbers = itertools.count()


@pytest.fixture(scope="session")
def world(start_cluster, until, tmp_path_factory):
    """Nodes of the pools base, small (3 pods) and elastic, gates in force, one controller."""
    with start_cluster("place", *FLAGS) as cluster:
        apply_gates(cluster)
        apply_accounts(cluster)
        made = World(cluster, until, tmp_path_factory.mktemp("placement"), *kubectl_path(cluster.name))
        try:
            for name in ("base-0", "base-1"):
                made.node(name, pods=600, taint=False)
            made.node("elastic-0", pods=3000)
            made.node("small-0", pods=3, taint=False)
            made.leading(made.controller())
            made.ready_nodes("base-0", "base-1", "elastic-0", "small-0")
            yield made
        finally:
            made.close()


@pytest.fixture
def space(world, request):
    """A namespace of one test; the parameter is the bound of its base, None for none to be watched.

    What must hold at rest is checked once more at the end of each test.
    """
    made = Space(world, f"t{next(numbers)}-{os.getpid()}", bound=getattr(request, "param", 5))
    failed = request.session.testsfailed
    try:
        yield made
        if request.session.testsfailed == failed:
            made.check()
    finally:
        made.close()


class Space:
    """One test's namespace."""

    def __init__(self, world, name, *, bound=5):
        self.world, self.name, self.cluster = world, name, world.cluster
        self.cluster.kubectl("create", "namespace", name)
        world.until(lambda: self.kubectl("get", "serviceaccount", "default"), what="service account")
        self.ledger = Ledger(world.program, world.environment, name, bound=bound)

    def kubectl(self, *args, **how):
        return self.cluster.kubectl("-n", self.name, *args, **how)

    def kubectl_error(self, *args, **how):
        """What kubectl complained of; "" when it did not."""
        try:
            self.kubectl(*args, **how)
        except AssertionError as error:
            return str(error)
        return ""

    def apply(self, *manifests):
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)), timeout=300)

    def policy(self, *pools, **spec):
        made = policy(*pools, **spec)
        self.apply(made)
        name = made["metadata"]["name"]
        self.world.until(
            lambda: self.cluster.get("pp", name, "-n", self.name).get("status", {}).get("observedGeneration"),
            what="policy that was observed",
        )

    def scale(self, replicas, *, name="web"):
        self.kubectl("scale", f"deployment/{name}", f"--replicas={replicas}")

    def pods(self):
        return [found for found in self.cluster.get("pods", "-n", self.name) if active(found)]

    def counts(self):
        return collections.Counter(pool_of(found) for found in self.pods())

    def settled(self, *, seconds=90, running=True, **wanted):
        """Wait until there are so many pods of each pool; then check what must always hold at rest."""
        self.arrived(seconds=seconds, running=running, **wanted)
        self.check()

    def arrived(self, *, seconds=90, running=True, **wanted):
        """Wait until there are so many pods of each pool, none of them gated."""

        def arrived():
            found = self.pods()
            counts = collections.Counter(pool_of(each) for each in found)
            assert counts == +collections.Counter(wanted), dict(counts)
            assert not any(gated(each) for each in found)
            assert not running or all(map(ready, found))
            return True

        self.world.until(arrived, seconds=seconds, what=f"{wanted} in {self.name}")

    def check(self):
        """No pod left gated, costs distinct within a ReplicaSet, the status that of a fresh list, the bound never broken."""
        self.world.until(
            lambda: not [each["metadata"]["name"] for each in self.pods() if gated(each)], what="no pod gated"
        )
        self.world.until(self.ledger_is_up_to_date, what="the watch's pods those of a list")
        self.world.until(self.costs_are_distinct, seconds=15, what="distinct costs")
        self.world.until(self.statuses_are_fresh, what="statuses of a fresh list")
        assert self.ledger.violations == []

    def ledger_is_up_to_date(self):
        watched = {uid for uid, each in list(self.ledger.pods.items()) if each.active}
        return watched == {each["metadata"]["uid"] for each in self.pods()}

    def costs_are_distinct(self):
        costs = collections.defaultdict(list)
        for each in self.pods():
            if each["metadata"].get("ownerReferences", [{}])[0].get("kind") == "ReplicaSet" and pool_of(each):
                costs[revision(each)].append(each["metadata"].get("annotations", {}).get(COST))
        for name, found in costs.items():
            assert None not in found, f"{name}: pods without a cost"
            twice = [cost for cost, count in collections.Counter(found).items() if count > 1]
            assert not twice, f"{name}: {twice}"
        return True

    def statuses_are_fresh(self):
        """Every status tells what a list of pods and nodes tells, and each pod is on a node of its pool."""
        labels = {node["metadata"]["name"]: node["metadata"]["labels"] for node in self.cluster.get("nodes")}
        pods = collections.defaultdict(list)
        for each in self.pods():
            pods[each["metadata"].get("labels", {}).get("placement.overspill.dev/policy")].append(each)
        for found in self.cluster.get("pp", "-n", self.name):
            self._is_fresh(found["spec"], found["status"], pods[found["metadata"]["name"]], labels)
        return True

    def _is_fresh(self, spec, status, pods, labels):
        for pool, said in zip(spec["pools"], status["pools"], strict=True):
            mine = [one for one in pods if pool_of(one) == pool["name"]]
            nodes = [one["spec"]["nodeName"] for one in mine if "nodeName" in one["spec"]]
            fresh = (len(mine), len(nodes), sum(map(ready, mine)))
            told = (said["assignedReplicas"], said["scheduledReplicas"], said["readyReplicas"])
            assert told == fresh, f"{pool['name']}: status {told}, list {fresh}"
            wanted = pool.get("nodeSelector", {}).items()
            strangers = {node for node in nodes if node in labels and not wanted <= labels[node].items()}
            assert not strangers, f"pool {pool['name']} on {strangers}"
        revisions = collections.Counter(
            (revision(one), pool_of(one)) for one in pods if revision(one) and pool_of(one)
        )
        told = {
            (each["name"], pool): count
            for each in status.get("revisions", ())
            for pool, count in each["pools"].items()
        }
        assert told == dict(revisions), f"status {told}, list {dict(revisions)}"
        assert status["gatedReplicas"] == 0, "a list has none"

    def ready(self):
        """How many pods of each pool are ready."""
        return collections.Counter(pool_of(found) for found in self.pods() if ready(found))

    def ranks(self):
        return sorted(int(found["metadata"]["annotations"][RANK]) for found in self.pods())

    def quota(self, *, pods):
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "few"},
                "spec": {"hard": {"pods": str(pods)}},
            }
        )
        self.world.until(
            lambda: (
                self.cluster.get("quota", "few", "-n", self.name).get("status", {}).get("hard")
                == {"pods": str(pods)}
            ),
            what="the quota in force",
        )

    def nudge(self):
        """Make the ReplicaSet's controller look again, which backs off for minutes from creates that fail."""
        self.kubectl("annotate", "deployment", "web", f"nudge={next(numbers)}", "--overwrite")

    def nudged(self, replicas):
        """Nudge until there are so many pods."""

        def there():
            self.nudge()
            return len(self.pods()) >= replicas

        self.world.until(there, seconds=180, what=f"{replicas} pods")

    def refused_for(self, seconds):
        """Nudge for some time, in which creates fail again and again."""
        began = time.monotonic()

        def over():
            self.nudge()
            refused = self.kubectl("get", "events", "--field-selector=reason=FailedCreate", "-o", "name")
            return len(refused.split()) >= 2 and time.monotonic() - began >= seconds

        self.world.until(over, seconds=seconds + 60, what="creates that were refused")

    def bound(self):
        return sum("nodeName" in each["spec"] for each in self.pods())

    def placement(self, *args):
        """Run `overspill placement`; what it prints."""
        done = subprocess.run(
            [OVERSPILL, "placement", *args, "-n", self.name],
            env=self.world.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def condition(self, kind, *, name="web"):
        found = self.cluster.get("pp", name, "-n", self.name).get("status", {}).get("conditions", [])
        return next((each for each in found if each["type"] == kind), None)

    def is_true(self, kind, *, name="web"):
        found = self.condition(kind, name=name)
        return found is not None and found["status"] == "True"

    def patch_template(self, **annotations):
        """Roll out."""
        change = {"spec": {"template": {"metadata": {"annotations": {"v": str(time.time()), **annotations}}}}}
        self.kubectl("patch", "deployment", "web", "-p", json.dumps(change))

    def set_condition(self, name, kind, status):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        change = {"status": {"conditions": [{"type": kind, "status": status, "lastTransitionTime": now}]}}
        self.kubectl("patch", "pod", name, "--subresource=status", "-p", json.dumps(change))

    def rolled_out(self, *, seconds=120):
        self.kubectl("rollout", "status", "deployment/web", f"--timeout={seconds}s", timeout=seconds + 10)

    def close(self):
        self.ledger.close()
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")
