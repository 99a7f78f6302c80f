"""A small cluster for the model test: a Deployment, its ReplicaSets, their pods and nodes, as Kubernetes keeps them.

The ranking is that of pkg/controller/controller_utils.go, ActivePodsWithRanks, as far as it applies here.
"""

import copy
import itertools

import placing
from overspill import names

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
DELETED = "2026-01-01T01:00:00Z"


class Cluster:
    """Objects as the apiserver has them, and the events that watchers have not been told yet.

    Attributes:
        clock: seconds.
        base_is_up: whether the base's nodes can be reached, and take pods.
        room: how many pods the base's nodes take.
        stock: whether the elastic pool has instances for further pods.
        strays: pods that came to run without having been placed.
    """

    def __init__(self, replicas):
        self.clock = 0.0
        self.base_is_up = True
        self.room = 100
        self.stock = True
        self.strays = set()
        self.replicas = replicas
        self.revision = 1
        self.templates = {1: 1}  # template -> revision
        self.wanted = {1: replicas}  # template -> replicas of its ReplicaSet
        self.template = 1
        self.surge, self.unavailable = 2, 2
        self.paused = False
        self.pods = {}
        self.watchers = []
        self._numbers = itertools.count(1)
        self._versions = itertools.count(1)

    # --- the apiserver ---

    def watch(self):
        """What is there now, and a list that is told of all that happens from now on."""
        events = []
        self.watchers.append(events)
        return [placing.decoded(each) for each in self.pods.values()], events

    def changed(self, name, kind="MODIFIED"):
        pod = self.pods[name]
        pod["metadata"]["resourceVersion"] = str(next(self._versions))
        for events in self.watchers:
            events.append((kind, copy.deepcopy(pod)))

    def delete(self, name, *, version=None):
        """Begin a pod's end; one without a node is gone at once."""
        pod = self.pods.get(name)
        if pod is None or version not in {None, pod["metadata"]["resourceVersion"]}:
            return
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = DELETED
            self.changed(name)
        if not pod["spec"].get("nodeName"):
            self._gone(name)

    def _gone(self, name):
        self.changed(name, "DELETED")
        del self.pods[name]

    def patch(self, name, operations):
        """Carry out a JSON patch; False for a conflict."""
        pod = self.pods.get(name)
        if pod is None or not operations:
            return False
        found = {each["path"]: each for each in operations}
        if found["/metadata/resourceVersion"]["value"] != pod["metadata"]["resourceVersion"]:
            return False
        for operation in operations:
            _apply(pod, operation)
        self.changed(name)
        return True

    # --- the controllers ---

    def owner(self, template):
        return f"web-{template}"

    def active(self):
        return [pod for pod in self.pods.values() if "deletionTimestamp" not in pod["metadata"]]

    def of(self, template):
        owner = self.owner(template)
        return [pod for pod in self.active() if pod["metadata"]["ownerReferences"][0]["name"] == owner]

    def sync_replica_sets(self):
        for template, wanted in self.wanted.items():
            have = self.of(template)
            for _ in range(wanted - len(have)):
                self._create(template)
            for pod in sorted(have, key=_keep_order)[: max(len(have) - wanted, 0)]:
                self.delete(pod["metadata"]["name"])

    def sync_deployment(self):
        """One step of a rolling update, or a scaling."""
        old = [template for template in self.wanted if template != self.template and self.wanted[template]]
        if not old or self.paused:
            excess = self.replicas - sum(self.wanted.values())
            grown = self.template if self.wanted.get(self.template) or not old else old[0]
            self.wanted[grown] = max(self.wanted.get(grown, 0) + excess, 0) if old else self.replicas
            return
        room = self.replicas + self.surge - sum(self.wanted.values())
        here = self.wanted.get(self.template, 0)
        self.wanted[self.template] = min(here + max(room, 0), self.replicas)
        ready = sum(_is_ready(pod) for pod in self.active())
        spare = ready - (self.replicas - self.unavailable)
        for template in old:
            fewer = min(self.wanted[template], max(spare, 0))
            self.wanted[template] -= fewer
            spare -= fewer

    def roll_out(self, template):
        """Also back to one that was there before: it becomes the newest revision."""
        self.template = template
        self.revision += 1
        self.templates[template] = self.revision
        self.wanted.setdefault(template, 0)

    def is_old(self, owner):
        newest = max(self.templates, key=self.templates.__getitem__)
        return owner != self.owner(newest)

    # --- nodes ---

    def schedule(self):
        """Pods without a gate come to run on a node of their pool, or are told that there is none."""
        for name, pod in list(self.pods.items()):
            if pod["spec"].get("schedulingGates") or pod["spec"].get("nodeName"):
                continue
            on = pool(pod) or "base"
            if not (self._base_takes_one() if on == "base" else self.stock):
                if pod["status"]["conditions"] != [UNSCHEDULABLE]:
                    pod["status"]["conditions"] = [UNSCHEDULABLE]
                    self.changed(name)
                continue
            if pool(pod) is None:
                self.strays.add(name)
            pod["spec"]["nodeName"] = f"node-of-{on}"
            self._run(name)

    def _base_takes_one(self):
        running = sum(pod["spec"].get("nodeName") == "node-of-base" for pod in self.pods.values())
        return self.base_is_up and running < self.room

    def run_kubelets(self):
        """Nodes that can be reached get their pods ready, and end those that are to go."""
        for name, pod in list(self.pods.items()):
            node = pod["spec"].get("nodeName")
            if not node or (node == "node-of-base" and not self.base_is_up):
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self._gone(name)
            elif not _is_ready(pod):
                self._run(name)

    def _run(self, name):
        self.pods[name]["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.changed(name)

    def unready(self, name):
        pod = self.pods[name]
        if pod["spec"].get("nodeName"):
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            self.changed(name)

    def lose_base(self):
        """Its nodes cannot be reached: their pods are to go, and nobody ends them."""
        self.base_is_up = False
        for name, pod in list(self.pods.items()):
            if pod["spec"].get("nodeName") == "node-of-base":
                self.delete(name)

    def _create(self, template):
        name = f"{self.owner(template)}-{next(self._numbers)}"
        self.pods[name] = placing.manifest(name, owner=self.owner(template))
        self.changed(name, "ADDED")


def _is_ready(pod):
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])


def cost(pod):
    return int(pod["metadata"].get("annotations", {}).get(names.DELETION_COST, 0))


def pool(pod):
    return pod["metadata"].get("labels", {}).get(names.POOL_LABEL)


def _keep_order(pod):
    """Sorts pods from the one that a ReplicaSet removes first."""
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}
    return (
        bool(pod["spec"].get("nodeName")),
        phases[pod["status"]["phase"]],
        _is_ready(pod),
        cost(pod),
        -int(pod["metadata"]["name"].rpartition("-")[2]),
    )


def _apply(pod, operation):
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    if operation["path"] in {"/metadata/uid", "/metadata/resourceVersion"}:
        return
    place = pod
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if operation["op"] == "remove":
        del place[int(last)]
    elif isinstance(place, list):
        place.append(operation["value"])
    else:
        place[last] = operation["value"]
