"""A small Deployment, its ReplicaSets and their pods, as Kubernetes' controllers keep them; for the model test.

The ranking is that of pkg/controller/controller_utils.go, ActivePodsWithRanks, as far as it applies here.
"""

import copy
import itertools

import placing

from overspill import names
from overspill.placement import patch as patches


class Cluster:
    """Objects as the apiserver has them, and the events that watchers have not been told yet."""

    def __init__(self, replicas):
        self.replicas = replicas
        self.revision = 1
        self.templates = {1: 1}  # template -> revision
        self.wanted = {1: replicas}  # template -> replicas of its ReplicaSet
        self.template = 1
        self.surge, self.unavailable = 2, 2
        self.paused = False
        self.pods = {}
        self.events = []
        self._numbers = itertools.count(1)
        self._versions = itertools.count(1)

    # --- the apiserver ---

    def list(self):
        return [placing.decoded(each) for each in self.pods.values()]

    def changed(self, name):
        pod = self.pods[name]
        pod["metadata"]["resourceVersion"] = str(next(self._versions))
        self.events.append(("MODIFIED", copy.deepcopy(pod)))

    def delete(self, name):
        pod = self.pods.pop(name)
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
        self.events.append(("DELETED", pod))

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

    def of(self, template):
        owner = self.owner(template)
        return [pod for pod in self.pods.values() if pod["metadata"]["ownerReferences"][0]["name"] == owner]

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
        ready = sum(_is_ready(pod) for pod in self.pods.values())
        spare = ready - (self.replicas - self.unavailable)
        for template in old:
            fewer = min(self.wanted[template], max(spare, 0))
            self.wanted[template] -= fewer
            spare -= fewer

    def roll_out(self, template):
        self.template = template
        self.revision += 1
        self.templates[template] = self.revision
        self.wanted.setdefault(template, 0)

    def is_old(self, owner):
        newest = max(self.templates, key=self.templates.__getitem__)
        return owner != self.owner(newest)

    def run_scheduled(self):
        for name, pod in list(self.pods.items()):
            if not pod["spec"].get("schedulingGates") and not pod["spec"].get("nodeName"):
                pool = pod["metadata"].get("labels", {}).get(names.POOL_LABEL, "base")
                pod["spec"]["nodeName"] = f"node-of-{pool}"
                pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                self.changed(name)

    def _create(self, template):
        name = f"{self.owner(template)}-{next(self._numbers)}"
        self.pods[name] = placing.manifest(name, owner=self.owner(template), version=next(self._versions))
        self.events.append(("ADDED", copy.deepcopy(self.pods[name])))


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


__all__ = ["Cluster", "cost", "patches", "pool"]
