"""Whether this node takes a pod, judged anew on the node as the kubelet does.

In: a pod, the node's labels, taints and allocatable resources, what the backend can do. Out: a `Refusal`
or None. Invariant: what the admitted pods take together is kept as running totals, so that judging a
pod costs the same on a full node as on an empty one; a pod counts once, from `admit` to `release`.
The order of the checks and their words are those of k8s.io/kubernetes/pkg/kubelet/lifecycle/predicate.go.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from overspill.backends.base import Capabilities
from overspill.model.affinity import Taint, matches_node, untolerated
from overspill.model.fields import unsupported_fields
from overspill.model.podrequests import amounts, container_requests
from overspill.model.pods import Container, Pod, PodSpec
from overspill.model.quantity import whole

__all__ = ["UNSUPPORTED", "Admission", "Amounts", "Refusal", "requests"]

# Reason of our own: fields that nobody would act on. It is no end of the pod: a ReplicaSet would
# replace one that failed at once, and again, for ever.
UNSUPPORTED = "UnsupportedPod"
DAEMON_SET = "DaemonSetNotSupported"
# Of a node that goes: no end of the pod either, for it is evicted, and its successor runs elsewhere.
CLOSED = "NodeDecommissioning"
SHAPES_KEPT = 1000


class Refusal(Struct, frozen=True):
    """Why a pod is not run; `terminal`: it never will be, so its phase is Failed, else it waits as it is."""

    reason: str
    message: str
    terminal: bool = True


class Amounts(Struct, frozen=True):
    """Resources in whole numbers: millicores, bytes, bytes."""

    cpu: int = 0
    memory: int = 0
    ephemeral_storage: int = 0


class _Held(Struct, frozen=True):
    """What one admitted pod takes."""

    amounts: Amounts
    host_ports: frozenset[tuple[str, int]]


class Admission:
    """Judges pods for one node, and remembers what the admitted ones take.

    Attributes:
        closed: why no pod is started any more; "" while the node is to stay.
    """

    def __init__(
        self,
        *,
        node_name: str,
        labels: Mapping[str, str],
        allocatable: Mapping[str, str],
        capabilities: Capabilities,
        taints: Iterable[Taint] = (),
    ) -> None:
        """`allocatable` are quantities by resource name: cpu, memory, ephemeral-storage, pods."""
        self._node_name = node_name
        self._pod_fields = capabilities.pod_fields
        self._room = _whole_numbers(amounts(allocatable))
        self._room_for_pods = whole(allocatable.get("pods", "0"))
        self._held: dict[str, _Held] = {}
        self._shapes: dict[_Held, _Held] = {}
        self._used = Amounts()
        self._host_ports: set[tuple[str, int]] = set()
        self.closed = ""
        self.node_changed(labels, taints)

    def node_changed(self, labels: Mapping[str, str], taints: Iterable[Taint]) -> None:
        """Judge by these labels and taints from now on: others label the node as well."""
        self._labels = dict(labels)
        self._taints = tuple(taints)

    def admit(self, pod: Pod) -> Refusal | None:
        """Why the pod is refused, or None: then it counts, until `release`. A pod that counts is not judged again."""
        if self.closed:
            return Refusal(CLOSED, self.closed, terminal=False)
        if pod.metadata.uid in self._held:
            return None
        try:
            spec = pod.decoded_spec()
        except msgspec.ValidationError as error:
            # A value that a later Kubernetes allows: named like a field, not tried again and again.
            told = str(error).replace("$.", "spec.")
            return Refusal(UNSUPPORTED, f"not understood on this node: {told}", terminal=False)
        held = _held(spec)
        refusal = _of_daemon_set(pod) or self._unsupported(pod) or self._kubelets(spec, held)
        if refusal is None:
            self._count(pod.metadata.uid, held)
        return refusal

    def adopt(self, pod: Pod) -> None:
        """Count a pod that runs already, whatever it takes: an agent finds its pods again when it restarts."""
        if pod.metadata.uid not in self._held:
            self._count(pod.metadata.uid, _held(pod.decoded_spec()))

    def resize(self, pod: Pod) -> Refusal | None:
        """Why a pod that counts cannot take what it asks for by now, or None: then that is what counts.

        The reason is one of PodResizePending: `Infeasible`, or `Deferred` until others make room.
        """
        uid, held = pod.metadata.uid, _held(pod.decoded_spec())
        before = self._held[uid].amounts
        others = _sum(self._used, before, sign=-1)
        for name, requested, _, capacity in _side_by_side(held.amounts, others, self._room):
            if requested > capacity:
                return Refusal(
                    "Infeasible",
                    f"Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}",
                    terminal=False,
                )
        was = _side_by_side(before, others, self._room)
        now = _side_by_side(held.amounts, others, self._room)
        for (_, had, _, _), (name, requested, used, capacity) in zip(was, now, strict=True):
            if had < requested > capacity - used:
                return Refusal("Deferred", _out_of(name, requested, used, capacity).message, terminal=False)
        self.release(uid)
        self._count(uid, held)
        return None

    def release(self, uid: str) -> None:
        """Count a pod no more; nothing happens if it does not."""
        held = self._held.pop(uid, None)
        if held is not None:
            self._used = _sum(self._used, held.amounts, sign=-1)
            self._host_ports -= held.host_ports

    def _count(self, uid: str, held: _Held) -> None:
        # Pods of one template ask for the same: the value is kept once.
        if len(self._shapes) > SHAPES_KEPT:
            self._shapes.clear()
        self._held[uid] = held = self._shapes.setdefault(held, held)
        self._used = _sum(self._used, held.amounts)
        self._host_ports |= held.host_ports

    def _unsupported(self, pod: Pod) -> Refusal | None:
        fields = unsupported_fields(pod.plain_spec(), self._pod_fields)
        if not fields:
            return None
        told = f"not honoured on this node: {', '.join(fields)}; do without, or run the pod on another node"
        return Refusal(UNSUPPORTED, told, terminal=False)

    def _kubelets(self, spec: PodSpec, held: _Held) -> Refusal | None:
        """What the kubelet checks, first what it names first."""
        if spec.os.name not in {"", "linux"}:
            return Refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
        return (
            self._insufficient(held.amounts)
            or self._mismatch(spec)
            or self._taken_ports(held)
            or self._taint(spec)
        )

    def _insufficient(self, wanted: Amounts) -> Refusal | None:
        pods = len(self._held)
        if pods >= self._room_for_pods:
            return _out_of("pods", 1, pods, self._room_for_pods)
        for name, requested, used, capacity in _side_by_side(wanted, self._used, self._room):
            if requested and requested > capacity - used:
                return _out_of(name, requested, used, capacity)
        return None

    def _mismatch(self, spec: PodSpec) -> Refusal | None:
        if not matches_node(spec, node_name=self._node_name, labels=self._labels):
            return _failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
        if spec.node_name not in {"", self._node_name}:
            return _failed("NodeName", "node(s) didn't match the requested node name")
        return None

    def _taken_ports(self, held: _Held) -> Refusal | None:
        if held.host_ports & self._host_ports:
            return _failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
        return None

    def _taint(self, spec: PodSpec) -> Refusal | None:
        if untolerated(spec, self._taints, effect="NoExecute"):
            return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
        return None


def requests(spec: PodSpec) -> Amounts:
    """What a pod takes of its node, its overhead included."""
    return _whole_numbers(container_requests(spec.containers, spec.init_containers) + amounts(spec.overhead))


def _of_daemon_set(pod: Pod) -> Refusal | None:
    if not any(owner.controller and owner.kind == "DaemonSet" for owner in pod.metadata.owners()):
        return None
    return Refusal(
        DAEMON_SET,
        "virtual nodes run no DaemonSet's pods: there is no machine to serve."
        " Keep the DaemonSet off them by node affinity: type NotIn [virtual-kubelet]",
    )


def _held(spec: PodSpec) -> _Held:
    return _Held(requests(spec), frozenset(_host_ports(spec.containers)))


def _host_ports(containers: Iterable[Container]) -> Iterator[tuple[str, int]]:
    for container in containers:
        for port in container.ports:
            if port.host_port:
                yield port.protocol, port.host_port


def _whole_numbers(thousandths: Mapping[str, int]) -> Amounts:
    memory, storage = thousandths.get("memory", 0), thousandths.get("ephemeral-storage", 0)
    return Amounts(thousandths.get("cpu", 0), -(-memory // 1000), -(-storage // 1000))  # rounded up


def _sum(one: Amounts, other: Amounts, *, sign: int = 1) -> Amounts:
    return Amounts(
        one.cpu + sign * other.cpu,
        one.memory + sign * other.memory,
        one.ephemeral_storage + sign * other.ephemeral_storage,
    )


def _side_by_side(wanted: Amounts, used: Amounts, room: Amounts) -> tuple[tuple[str, int, int, int], ...]:
    return (
        ("cpu", wanted.cpu, used.cpu, room.cpu),
        ("memory", wanted.memory, used.memory, room.memory),
        ("ephemeral-storage", wanted.ephemeral_storage, used.ephemeral_storage, room.ephemeral_storage),
    )


def _out_of(resource: str, requested: int, used: int, capacity: int) -> Refusal:
    return Refusal(
        f"OutOf{resource}",
        f"Node didn't have enough resource: {resource},"
        f" requested: {requested}, used: {used}, capacity: {capacity}",
    )


def _failed(predicate: str, why: str) -> Refusal:
    return Refusal(predicate, f"Predicate {predicate} failed: {why}")
