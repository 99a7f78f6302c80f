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
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from overspill.local.kubectl import kubectl_path

ROOT = Path(__file__).parents[2]
OVERSPILL = str(Path(sys.executable).parent / "overspill")
POOL = "placement.overspill.dev/pool"
COST = "controller.kubernetes.io/pod-deletion-cost"
GATE = "overspill.dev/assign"
TOLERATION = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pool(name, most=None, *, nodes=None, **more):
    """A pool of the nodes labelled pool=`nodes`; by default of those with the pool's own name."""
    limit = {} if most is None else {"maxReplicas": most}
    return {
        "name": name,
        "nodeSelector": {"pool": nodes or name},
        "tolerations": [TOLERATION],
        **limit,
        **more,
    }


def policy(*pools, name="web", **spec):
    target = (
        {}
        if "selector" in spec
        else {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}
    )
    return {
        "apiVersion": "placement.overspill.dev/v1alpha1",
        "kind": "PlacementPolicy",
        "metadata": {"name": name},
        "spec": {**target, "pools": list(pools) or [pool("base", 5), pool("elastic")], **spec},
    }


def template(app="web", *, annotations=None, **spec):
    metadata = {"labels": {"app": app}, **({"annotations": annotations} if annotations else {})}
    return {
        "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "x"}],
            **spec,
        },
    }


def deployment(
    replicas, *, name="web", surge="25%", unavailable="25%", strategy=None, annotations=None, **fields
):
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": strategy or rolling,
            "template": template(name, **fields),
        },
    }


class Process:
    """A controller or agent, ended by its id."""

    def __init__(self, *argv, log, kubeconfig):
        self.log = Path(log)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen([OVERSPILL, *argv], stdout=out, stderr=out, env=environment)
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

    def leads(self):
        return "everything is listed" in self.log.read_text()


class Ledger:
    """All pods of a namespace, by a watch; `check` is asked at every event."""

    def __init__(self, program, environment, namespace, *, bound=None):
        self.pods = {}
        self.peak = collections.Counter()
        self.uids = collections.defaultdict(set)
        self.violations = []
        self.events = 0
        self._bound = bound
        path = f"/api/v1/namespaces/{namespace}/pods?watch=true&timeoutSeconds=3600"
        self._process = subprocess.Popen(
            [program, "get", "--raw", path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._process.stdout:
            event = json.loads(line)
            found = event["object"]
            if event["type"] == "DELETED":
                self.pods.pop(found["metadata"]["uid"], None)
            elif event["type"] in {"ADDED", "MODIFIED"}:
                self.pods[found["metadata"]["uid"]] = found
            self._check()

    def _check(self):
        self.events += 1
        counts = collections.Counter()
        by_revision = collections.Counter()
        for found in self.pods.values():
            if active(found):
                counts[pool_of(found)] += 1
                by_revision[pool_of(found), revision(found)] += 1
                self.uids[pool_of(found)].add(found["metadata"]["uid"])
        for name, count in counts.items():
            self.peak[name] = max(self.peak[name], count)
        for (name, _), count in by_revision.items():
            self.peak[f"{name} of one revision"] = max(self.peak[f"{name} of one revision"], count)
        if self._bound is not None and by_revision:
            most = max((count for (name, _), count in by_revision.items() if name == "base"), default=0)
            if most > self._bound:
                self.violations.append(dict(by_revision))

    def close(self):
        self._process.terminate()
        self._process.wait()
        self._thread.join(5)
        self._process.stdout.close()


def active(found):
    return "deletionTimestamp" not in found["metadata"] and found["status"].get("phase") not in {
        "Succeeded",
        "Failed",
    }


def pool_of(found):
    return found["metadata"].get("labels", {}).get(POOL)


def revision(found):
    owners = found["metadata"].get("ownerReferences", [])
    return owners[0]["name"] if owners else ""


def gated(found):
    return any(gate["name"] == GATE for gate in found["spec"].get("schedulingGates", ()))


def ready(found):
    return any(
        each["type"] == "Ready" and each["status"] == "True" for each in found["status"].get("conditions", ())
    )


class World:
    """The cluster, its nodes and controllers."""

    def __init__(self, cluster, until, folder, program, environment):
        self.cluster, self.until = cluster, until
        self.program, self.environment = program, {**os.environ, **environment}
        self.folder = folder
        self.kubeconfig = environment["KUBECONFIG"]
        self._stack = contextlib.ExitStack()
        self.controllers = []
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

    def controller(self, *flags):
        number = next(self._numbers)
        process = Controller(*flags, log=self.folder / f"controller-{number}.log", kubeconfig=self.kubeconfig)
        self.controllers.append(process)
        self._stack.callback(process.stop)
        return process

    @property
    def current(self):
        """The controller that was started last."""
        return self.controllers[-1]

    def leading(self, process, seconds=60):
        self.until(process.leads, seconds=seconds, what="controller that leads")
        return process

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
    with start_cluster(
        "place", "--workers", "0", "--virtual-nodes", "0", "--backend", "simulated"
    ) as cluster:
        cluster.kubectl("apply", "-k", str(ROOT / "deploy/placement/definitions"))
        for kind in ("policies", "indexes"):
            cluster.kubectl(
                "wait", "--for=condition=Established", f"crd/placement{kind}.placement.overspill.dev"
            )
        cluster.kubectl("apply", "-f", str(ROOT / "deploy/placement/gate.yaml"))
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
    """A namespace of one test; the parameter is the bound of its base, None for none to be watched."""
    made = Space(world, f"t{next(numbers)}-{os.getpid()}", bound=getattr(request, "param", 5))
    yield made
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
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)))

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
        assert not [each["metadata"]["name"] for each in self.pods() if gated(each)]
        self.world.until(self.costs_are_distinct, seconds=15, what="distinct costs")
        for each in self.cluster.get("pp", "-n", self.name):
            self.world.until(
                lambda name=each["metadata"]["name"]: self.status_is_fresh(name),
                what="status of a fresh list",
            )
        assert self.ledger.violations == []

    def costs_are_distinct(self):
        costs = collections.defaultdict(list)
        for each in self.pods():
            if each["metadata"].get("ownerReferences", [{}])[0].get("kind") == "ReplicaSet" and pool_of(each):
                costs[revision(each)].append(each["metadata"]["annotations"][COST])
        for name, found in costs.items():
            twice = [cost for cost, count in collections.Counter(found).items() if count > 1]
            assert not twice, f"{name}: {twice}"
        return True

    def status_is_fresh(self, name):
        status = self.cluster.get("pp", name, "-n", self.name)["status"]
        found = [
            each
            for each in self.pods()
            if each["metadata"]["labels"].get("placement.overspill.dev/policy") == name
        ]
        for each in status["pools"]:
            mine = [one for one in found if pool_of(one) == each["name"]]
            fresh = (len(mine), sum("nodeName" in one["spec"] for one in mine), sum(map(ready, mine)))
            said = (each["assignedReplicas"], each["scheduledReplicas"], each["readyReplicas"])
            assert said == fresh, f"{each['name']}: status {said}, list {fresh}"
        return True

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

    def set_ready(self, name, status):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        change = {"status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": now}]}}
        self.kubectl("patch", "pod", name, "--subresource=status", "-p", json.dumps(change))

    def rolled_out(self, *, seconds=120):
        self.kubectl("rollout", "status", "deployment/web", f"--timeout={seconds}s", timeout=seconds + 10)

    def close(self):
        self.ledger.close()
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")
