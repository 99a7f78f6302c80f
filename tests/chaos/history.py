"""What was seen of a run from outside: values, and how they are taken from the wire.

In: events of an apiserver's watch, lines of the emulator's bill, memory of processes. Out: a `History` for the
checkers. Invariant: nothing in it comes from a program that is under test.
"""

from datetime import datetime

from msgspec import Struct, field

UID_TAG, NAMESPACE_TAG, POD_TAG = "overspill.dev/uid", "overspill.dev/namespace", "overspill.dev/pod"


class Pod(Struct, kw_only=True):
    """One pod, as far as it has been seen; times are seconds since 1970.

    Attributes:
        owner: kind of its controller, "" for none.
        revision: its pod-template-hash.
        deadline: when it must have ended, once somebody deleted it.
        gone: when the apiserver let it go.
    """

    uid: str
    namespace: str
    name: str
    owner: str = ""
    app: str = ""
    revision: str = ""
    pool: str = ""
    node: str = ""
    phase: str = "Pending"
    reason: str = ""
    ready: bool = False
    restarts: int = 0
    created: float = 0.0
    deadline: float | None = None
    gone: float | None = None
    failed: float | None = None
    disruption: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} ({self.uid[:8]})"


class Billed(Struct, frozen=True):
    """One container group of the emulator's bill; `ended` is None while it costs money."""

    group: str
    uid: str
    pod: str
    began: float
    ended: float | None = None


class Memory(Struct, frozen=True):
    """How much an agent held at one time, in MB."""

    at: float
    pid: int
    name: str
    megabytes: float


class Over(Struct, frozen=True):
    """The pool `base` of a revision had more pods than it may."""

    at: float
    revision: str
    pods: int
    most: int


class NodeChange(Struct, frozen=True):
    """What a node was told to be at one time: whether Ready, why, and its taints that evict pods; gone without any."""

    at: float
    node: str
    ready: str = ""
    why: str = ""
    evicts: tuple[str, ...] = ()


class History(Struct):
    """All of it; `nodes` is for whoever reads why."""

    pods: dict[str, Pod] = field(default_factory=dict)
    nodes: list[NodeChange] = field(default_factory=list)
    bill: list[Billed] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    over: list[Over] = field(default_factory=list)


def seconds(text: str | None) -> float | None:
    """A time of the API."""
    return datetime.fromisoformat(text).timestamp() if text else None


def take(history: History, kind: str, found: dict, *, at: float) -> Pod:
    """Take one event of the watch in."""
    meta, spec, status = found["metadata"], found.get("spec", {}), found.get("status", {})
    labels = meta.get("labels", {})
    owner = next((each["kind"] for each in meta.get("ownerReferences", ()) if each.get("controller")), "")
    pod = history.pods.setdefault(
        meta["uid"], Pod(uid=meta["uid"], namespace=meta["namespace"], name=meta["name"])
    )
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    pod.owner, pod.app = owner, labels.get("app", "")
    pod.revision = labels.get("pod-template-hash", "")
    pod.pool = labels.get("placement.overspill.dev/pool", "")
    pod.node = spec.get("nodeName", "")
    pod.phase, pod.reason = status.get("phase", "Pending"), status.get("reason", "")
    pod.ready = conditions.get("Ready", {}).get("status") == "True"
    pod.restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses", ()))
    pod.created = seconds(meta["creationTimestamp"]) or at
    pod.deadline = seconds(meta.get("deletionTimestamp"))
    pod.disruption = conditions.get("DisruptionTarget", {}).get("reason", "")
    # What was told to end may end as it likes: a container that is killed has failed.
    if pod.phase == "Failed" and pod.failed is None and pod.deadline is None:
        pod.failed = at
    if kind == "DELETED":
        pod.gone = at
    return pod


def node_change(kind: str, found: dict, *, at: float) -> NodeChange:
    """What one event of the nodes' watch says."""
    name = found["metadata"]["name"]
    if kind == "DELETED":
        return NodeChange(at, name)
    ready = next((each for each in found["status"].get("conditions", ()) if each["type"] == "Ready"), {})
    evicts = [each["key"] for each in found["spec"].get("taints", ()) if each["effect"] == "NoExecute"]
    return NodeChange(at, name, ready.get("status", ""), ready.get("message", ""), tuple(evicts))


def alive(history: History) -> list[Pod]:
    """Pods that the apiserver has."""
    return [pod for pod in history.pods.values() if pod.gone is None]


def held(history: History, *, seconds: float, now: float) -> float:
    """How many MB an agent held on average lately; 0 if nobody looked."""
    lately = [each.megabytes for each in history.memory if each.at > now - seconds]
    return sum(lately) / len(lately) if lately else 0.0


def count_base(history: History, *, most: int, at: float) -> None:
    """Take note of every revision that has more than `most` pods in its pool `base`."""
    held: dict[str, int] = {}
    for pod in alive(history):
        if pod.pool == "base" and pod.deadline is None and pod.phase not in {"Succeeded", "Failed"}:
            held[pod.revision] = held.get(pod.revision, 0) + 1
    history.over += [Over(at, revision, pods, most) for revision, pods in held.items() if pods > most]
