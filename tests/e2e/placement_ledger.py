"""What happened to the pods of a namespace, event by event."""

import collections
import json
import subprocess
import threading
import time
from typing import NamedTuple

POOL = "placement.overspill.dev/pool"
GATE = "overspill.dev/assign"
RANK = "placement.overspill.dev/rank"
COST = "controller.kubernetes.io/pod-deletion-cost"


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


class Seen(NamedTuple):
    """What is remembered of a pod; `marks` are what placement writes on it."""

    marks: tuple
    pool: str | None
    revision: str
    active: bool
    ready: bool
    ending: bool
    node: str


def seen(found):
    annotations = found["metadata"].get("annotations", {})
    return Seen(
        marks=(gated(found), pool_of(found), annotations.get(RANK), annotations.get(COST)),
        pool=pool_of(found),
        revision=revision(found),
        active=active(found),
        ready=active(found) and ready(found),
        ending="deletionTimestamp" in found["metadata"],
        node=found["spec"].get("nodeName", ""),
    )


class Ledger:
    """All pods of a namespace, by a watch; at every event its rules are asked.

    The base of no revision may have more than `bound` pods, unless it had as many before, as after an edit of the
    policy. No pod may ever change its pool.

    Attributes:
        pods: those that are there, by uid.
        everybody: all that ever were, by uid.
        uids: all that ever were in a pool, by its name.
        peak: the most pods that a pool had at a time, of all revisions, and of any one.
        least_ready: the fewest that were ready at a time, since `watch_ready`.
        writes: how often placement has changed a pod.
        violations: where a rule was broken.
    """

    def __init__(self, program, environment, namespace, *, bound=None):
        self.pods = {}
        self.everybody = set()
        self.peak = collections.Counter()
        self.uids = collections.defaultdict(set)
        self.violations = []
        self.bound = bound
        self.least_ready = 0
        self.writes = 0
        self._counts = collections.Counter()
        self._ready = 0
        self._program, self._environment = program, environment
        self._path = f"/api/v1/namespaces/{namespace}/pods?watch=true&timeoutSeconds=3600"
        self._version = ""
        self._closing = False
        self._start()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _start(self):
        """Watch from the last version that was heard; under load the apiserver cuts a watch in mid-burst."""
        since = f"&resourceVersion={self._version}" if self._version else ""
        self._process = subprocess.Popen(
            [self._program, "get", "--raw", self._path + since],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )

    def _read(self):
        while not self._closing:
            with self._process.stdout as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # an apiserver that was killed has said no more of it
                    self._hear(json.loads(line))
                    self.least_ready = min(self.least_ready, self._ready)
            if self._process.wait() and not self._closing:
                self._forget()
                time.sleep(0.2)  # nobody answers
            if not self._closing:
                self._start()

    def _hear(self, event):
        metadata = event["object"].get("metadata", {})
        if event["type"] in {"ADDED", "MODIFIED"}:
            self._put(metadata["uid"], seen(event["object"]))
        elif event["type"] == "DELETED":
            self._drop(self.pods.pop(metadata["uid"], None))
        else:  # 410 after the apiserver was replaced
            self._forget()
            return
        self._version = metadata["resourceVersion"]

    def _forget(self):
        """All is told anew."""
        self._version = ""
        self.pods.clear()
        self._counts.clear()
        self._ready = 0

    @property
    def ready(self):
        """How many pods are ready now."""
        return self._ready

    @property
    def created(self):
        """How many pods there ever were that got a pool."""
        return sum(len(uids) for pool, uids in self.uids.items() if pool)

    def count(self, pool):
        """How many pods of a pool there are now."""
        return self._counts[pool]

    def watch_ready(self):
        """Count `least_ready` from now on."""
        self.least_ready = self._ready

    def _put(self, uid, now):
        before = self.pods.get(uid)
        self.pods[uid] = now
        self.everybody.add(uid)
        self._drop(before)
        self.writes += before is not None and before.marks != now.marks
        if before is not None and before.pool not in {None, now.pool}:
            self.violations.append(f"{uid} moved from pool {before.pool} to {now.pool}")
        if not now.active:
            return
        self._ready += now.ready
        self.uids[now.pool].add(uid)
        grew = before is None or not before.active or before.pool != now.pool
        for key, name in (
            (now.pool, now.pool),
            ((now.pool, now.revision), f"{now.pool} of one revision"),
        ):
            self._counts[key] += 1
            self.peak[name] = max(self.peak[name], self._counts[key])
        base = self._counts["base", now.revision]
        if now.pool == "base" and grew and self.bound is not None and base > self.bound:
            self.violations.append(f"{base} base pods of {now.revision}, {self.bound} allowed")

    def _drop(self, before):
        if before is None or not before.active:
            return
        self._ready -= before.ready
        self._counts[before.pool] -= 1
        self._counts[before.pool, before.revision] -= 1

    def close(self):
        self._closing = True
        self._process.terminate()
        self._thread.join(10)
