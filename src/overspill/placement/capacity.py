"""Whether a pool's nodes have room for a pod, by what their pods request.

In: nodes, all pods of the cluster; pods that were sent to a pool and are not on a node yet. Out: yes or no. Pure.
Invariant: what is not known to fit does not. Requests of every resource, the number of pods, taints, and the pod's own
node selector and affinity count; what depends on other pods (spread, affinity to pods, ports, volumes) does not. The
scheduler has the last word.
"""

from collections.abc import Iterable, Iterator

import msgspec

from overspill.model.affinity import Toleration, tolerates, tolerations
from overspill.model.podrequests import Amounts, amounts, container_requests
from overspill.placement.nodes import Node, allows, belongs
from overspill.placement.pods import Pod
from overspill.placement.policy import Pool

__all__ = ["Capacity", "request_of"]

ONE_POD = Amounts({"pods": 1000})
KEEPS_PODS_OFF = frozenset({"NoSchedule", "NoExecute"})


class Capacity:
    """What is left on each node, reckoned once and then kept as pods are sent there."""

    def __init__(self, nodes: Iterable[Node], pods: Iterable[Pod]) -> None:
        self._nodes = [node for node in nodes if node.usable]
        self._left = {node.metadata.name: amounts(node.status.allocatable) for node in self._nodes}
        for pod in pods:
            left = self._left.get(pod.spec.node_name)
            if left is not None and not pod.ended:
                left.subtract(request_of(pod))

    def copy(self) -> "Capacity":
        """One of its own, to take from."""
        made = Capacity((), ())
        made._nodes = self._nodes
        made._left = {name: left.copy() for name, left in self._left.items()}
        return made

    def take(self, pod: Pod, pool: Pool) -> bool:
        """Whether a pool has room for a pod, which is gone then."""
        left = next(self._rooms(pod, pool), None)
        if left is not None:
            left.subtract(request_of(pod))
        return left is not None

    def fits(self, pod: Pod, pool: Pool) -> bool:
        """Whether a pool has room for a pod."""
        return next(self._rooms(pod, pool), None) is not None

    def _rooms(self, pod: Pod, pool: Pool) -> Iterator[Amounts]:
        """What is left on each node where the pod fits."""
        wanted = request_of(pod)
        tolerated = [
            *msgspec.convert(pool.tolerations, list[Toleration]),
            *(tolerations.decode(pod.spec.tolerations) if pod.spec.tolerations else ()),
        ]
        for node in self._nodes:
            left = self._left[node.metadata.name]
            if (
                belongs(pool, node.metadata.labels)
                and all(left[name] >= amount for name, amount in wanted.items())
                and allows(pod, node.metadata.labels)
                and _tolerated(tolerated, node)
            ):
                yield left


def _tolerated(tolerated: Iterable[Toleration], node: Node) -> bool:
    return all(
        any(tolerates(each, taint) for each in tolerated)
        for taint in node.spec.taints
        if taint.effect in KEEPS_PODS_OFF
    )


def request_of(pod: Pod) -> Amounts:
    """What a pod takes of its node: what its containers need, or what it says as a whole, and its overhead."""
    together = container_requests(pod.spec.containers, pod.spec.init_containers)
    of_the_pod = amounts(pod.spec.resources.requests)
    return Amounts({**together, **of_the_pod}) + amounts(pod.spec.overhead) + ONE_POD
