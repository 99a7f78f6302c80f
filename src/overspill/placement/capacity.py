"""Whether a pool's nodes have room for a pod, by what their pods request.

In: nodes, all pods of the cluster; pods that were sent to a pool and are not on a node yet. Out: yes or no. Pure.
Invariant: what is not known to fit does not; only cpu, memory and the number of pods are counted, as these are
what fills a node. The scheduler has the last word.
"""

from collections.abc import Iterable

from msgspec import Struct

from overspill.model.quantity import parse_quantity
from overspill.placement.nodes import Node, belongs
from overspill.placement.pods import Pod
from overspill.placement.policy import Pool

__all__ = ["Capacity", "request_of"]


class Amount(Struct):
    """Cores, bytes and pods."""

    cpu: float = 0.0
    memory: float = 0.0
    pods: int = 0

    def holds(self, other: "Amount") -> bool:
        """Whether there is as much as that."""
        return self.cpu >= other.cpu and self.memory >= other.memory and self.pods >= other.pods

    def less(self, other: "Amount") -> None:
        """Take something away."""
        self.cpu -= other.cpu
        self.memory -= other.memory
        self.pods -= other.pods


class Capacity:
    """What is left on each node, reckoned once and then kept as pods are sent there."""

    def __init__(self, nodes: Iterable[Node], pods: Iterable[Pod]) -> None:
        self._nodes = [node for node in nodes if node.usable]
        self._left = {node.metadata.name: _allocatable(node) for node in self._nodes}
        for pod in pods:
            left = self._left.get(pod.spec.node_name)
            if left is not None and not pod.ended:
                left.less(request_of(pod))

    def take(self, pod: Pod, pool: Pool) -> bool:
        """Whether a pool has room for a pod, which is gone then."""
        wanted = request_of(pod)
        for node in self._nodes:
            left = self._left[node.metadata.name]
            if belongs(pool, node.metadata.labels) and left.holds(wanted):
                left.less(wanted)
                return True
        return False

    def fits(self, pod: Pod, pool: Pool) -> bool:
        """Whether a pool has room for a pod."""
        wanted = request_of(pod)
        return any(
            belongs(pool, node.metadata.labels) and self._left[node.metadata.name].holds(wanted)
            for node in self._nodes
        )


def request_of(pod: Pod) -> Amount:
    """What a pod's containers request together."""
    amount = Amount(pods=1)
    for container in pod.spec.containers:
        amount.cpu += _number(container.resources.requests.get("cpu"))
        amount.memory += _number(container.resources.requests.get("memory"))
    return amount


def _allocatable(node: Node) -> Amount:
    have = node.status.allocatable
    return Amount(_number(have.get("cpu")), _number(have.get("memory")), int(_number(have.get("pods"))))


def _number(text: str | int | None) -> float:
    return 0.0 if text is None else float(parse_quantity(str(text)))
