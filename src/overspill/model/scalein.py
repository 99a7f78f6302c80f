"""Whether a virtual node is to go for good, what of it has to go first, and how that is told.

In: its place in a StatefulSet, that StatefulSet, its Node and pods. Out: reasons, pods to evict, patches. Pure.
Invariants: a node goes only for a reason that was read at the apiserver, never because something could not be
read; only what carries our mark is uncordoned.
Sources: kubectl drain (k8s.io/kubectl/pkg/drain/filters.go), KEP-3335 (ordinals).
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from overspill import names
from overspill.model.node import NodeObject
from overspill.model.pods import Pod
from overspill.model.podstatus import timestamp

__all__ = [
    "BarePods",
    "Leave",
    "Member",
    "Progress",
    "StatefulSet",
    "Todo",
    "annotations_of",
    "condition_patch",
    "cordon_patch",
    "decommission_label",
    "half_done",
    "leave",
    "marked",
    "member_of_node",
    "member_of_pod",
    "to_do",
    "uncordon_patch",
]

BarePods = Literal["wait", "evict"]


class Member(Struct, frozen=True):
    """An agent's place: which StatefulSet it is one of, and its ordinal there."""

    namespace: str
    stateful_set: str
    ordinal: int


class _Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class _Ordinals(Struct, frozen=True):
    start: int = 0


class _Spec(Struct, frozen=True):
    replicas: int = 1
    ordinals: _Ordinals | None = None


class StatefulSet(Struct, frozen=True):
    """What of a StatefulSet decides which ordinals there are."""

    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()


class Leave(Struct, frozen=True):
    """Why a node is to go for good: a reason in one word, and in a sentence."""

    reason: str
    message: str


class Todo(Struct, frozen=True):
    """The pods of a node that is to go.

    Attributes:
        evict: those that are to be evicted.
        bare: those that nobody would make again, and that are waited for.
        ending: those that are on their way out.
    """

    evict: tuple[Pod, ...] = ()
    bare: tuple[Pod, ...] = ()
    ending: int = 0

    @property
    def pods(self) -> int:
        """All of them."""
        return len(self.evict) + len(self.bare) + self.ending


class Progress(Struct, frozen=True):
    """How far a node's end is.

    Attributes:
        pods: those that are still there.
        held: of them, those whose eviction is refused for now.
        bare: of them, those that nobody would make again, and that are waited for.
        groups: container groups at the backend; None if that is not known.
    """

    pods: int
    held: int
    bare: int
    groups: int | None

    def __str__(self) -> str:
        notes = [f"{self.held} held by disruption budgets"] if self.held else []
        notes += [f"{self.bare} without a controller, waited for"] if self.bare else []
        more = f" ({', '.join(notes)})" if notes else ""
        groups = (
            "container groups not known" if self.groups is None else _count(self.groups, "container group")
        )
        return f"{_count(self.pods, 'pod')}{more}, {groups} left"


def member_of_pod(pod: Pod) -> Member | None:
    """The place of an agent's pod; None if no StatefulSet made it."""
    owner = next((each for each in pod.metadata.owners() if each.controller), None)
    name, _, ordinal = pod.metadata.name.rpartition("-")
    if owner is None or owner.kind != "StatefulSet" or owner.name != name or not ordinal.isdigit():
        return None
    return Member(pod.metadata.namespace, name, int(ordinal))


def annotations_of(member: Member | None) -> dict[str, str]:
    """What a Node tells of its agent's place."""
    if member is None:
        return {}
    return {
        names.STATEFUL_SET_ANNOTATION: f"{member.namespace}/{member.stateful_set}",
        names.ORDINAL_ANNOTATION: str(member.ordinal),
    }


def member_of_node(node: NodeObject) -> Member | None:
    """The place of a Node's agent, as the Node tells it."""
    namespace, _, name = node.metadata.annotations.get(names.STATEFUL_SET_ANNOTATION, "").partition("/")
    ordinal = node.metadata.annotations.get(names.ORDINAL_ANNOTATION, "")
    return Member(namespace, name, int(ordinal)) if name and ordinal.isdigit() else None


def marked(node: NodeObject) -> bool:
    """Whether somebody has said on the Node that it is to go for good."""
    return node.metadata.labels.get(names.DECOMMISSION_LABEL, "false") != "false"


def decommission_label(node: NodeObject) -> dict[str, str]:
    """The label by which somebody has said so, if it is there."""
    value = node.metadata.labels.get(names.DECOMMISSION_LABEL)
    return {} if value is None else {names.DECOMMISSION_LABEL: value}


def leave(member: Member | None, found: StatefulSet | None, *, marked: bool) -> Leave | None:
    """Why a node is to go for good, or None; `found` is None if its StatefulSet is not there."""
    if marked:
        return Leave("Marked", f"the Node carries the label {names.DECOMMISSION_LABEL}")
    if member is None:
        return None
    name = f"StatefulSet {member.namespace}/{member.stateful_set}"
    if found is None:
        return Leave("StatefulSetGone", f"{name} is gone")
    if found.metadata.deletion_timestamp is not None:
        return Leave("StatefulSetDeleted", f"{name} is being deleted")
    start = found.spec.ordinals.start if found.spec.ordinals else 0
    if start <= member.ordinal < start + found.spec.replicas:
        return None
    wanted = _count(found.spec.replicas, "replica")
    first = f" from ordinal {start}" if start else ""
    return Leave("ScaledIn", f"{name} wants {wanted}{first}, and this is ordinal {member.ordinal}")


def to_do(pods: Iterable[Pod], *, bare_pods: BarePods) -> Todo:
    """What is left of a node's pods, by the rules of `kubectl drain`; those of DaemonSets do not count.

    A pod that only a finalizer's owner holds does not count either: nothing of it runs.
    """
    evict, bare, ending = [], [], 0
    for pod in pods:
        owner = next((each for each in pod.metadata.owners() if each.controller), None)
        if owner is not None and owner.kind == "DaemonSet":
            continue
        if pod.metadata.deletion_timestamp is not None:
            ending += not (pod.metadata.finalizers and pod.metadata.deletion_grace_period_seconds == 0)
        elif owner is None and not pod.ended and bare_pods == "wait":
            bare.append(pod)
        else:
            evict.append(pod)
    return Todo(tuple(evict), tuple(bare), ending)


def cordon_patch(node: NodeObject) -> dict[str, Any] | None:
    """A merge patch that cordons a node and says that we did; None if it is cordoned, by whomever."""
    if node.spec.unschedulable:
        return None
    return {
        "metadata": {
            "resourceVersion": node.metadata.resource_version,
            "annotations": {names.CORDONED_ANNOTATION: names.CORDONED_BY},
        },
        "spec": {"unschedulable": True},
    }


def uncordon_patch(node: NodeObject) -> dict[str, Any] | None:
    """A merge patch that takes back what `cordon_patch` did; None if that was not us."""
    if node.metadata.annotations.get(names.CORDONED_ANNOTATION) != names.CORDONED_BY:
        return None
    return {
        "metadata": {
            "resourceVersion": node.metadata.resource_version,
            "annotations": {names.CORDONED_ANNOTATION: None},
        },
        "spec": {"unschedulable": None},
    }


def half_done(node: NodeObject) -> bool:
    """Whether its end was begun, and not finished."""
    return uncordon_patch(node) is not None or node.condition(names.DECOMMISSIONING) is not None


def condition_patch(told: Leave | None, *, since: float, now: float) -> dict[str, Any]:
    """A strategic merge patch of a Node's status: it is going, or, with None, it is not."""
    if told is None:
        return {"status": {"conditions": [{"type": names.DECOMMISSIONING, "$patch": "delete"}]}}
    condition = {
        "type": names.DECOMMISSIONING,
        "status": "True",
        "reason": told.reason,
        "message": told.message,
        "lastHeartbeatTime": timestamp(now),
        "lastTransitionTime": timestamp(since),
    }
    return {"status": {"conditions": [condition]}}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
