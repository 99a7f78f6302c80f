"""What a node and its pods use, as one value that its readers share.

In: one `PodUsage` per pod and sample, from the backend. Out: `NodeUsage`. Pure. Invariant: the CPU seconds
of the node never fall, nor do those of a pod, though containers end and begin anew from zero.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from overspill.backends.base import ContainerUsage, PodUsage

__all__ = ["Measured", "NodeUsage", "next_usage"]


class Measured(Struct, frozen=True):
    """One pod: its newest sample, the one before it, and the CPU seconds of all its containers' runs."""

    latest: PodUsage
    before: PodUsage | None
    cpu_seconds: float

    @property
    def memory_bytes(self) -> int:
        """Working set of the containers that run."""
        return sum(container.memory_bytes for container in self.latest.containers)

    def rates(self) -> dict[str, float]:
        """Cores in use by name of the container, between the two samples or else since its start."""
        before = _by_run(self.before)
        rates: dict[str, float] = {}
        for container in self.latest.containers:
            earlier = before.get((container.name, container.started_at))
            since = self.before.sampled_at if earlier and self.before else container.started_at
            used = container.cpu_seconds - (earlier.cpu_seconds if earlier else 0.0)
            seconds = self.latest.sampled_at - since
            rates[container.name] = max(0.0, used) / seconds if seconds > 0 else 0.0
        return rates


class NodeUsage(Struct, frozen=True):
    """A node at one moment. Times are seconds since 1970.

    Attributes:
        started_at: when the node began to count.
        sampled_at: time of the newest sample; the time of asking on a node without any.
        ended_cpu_seconds: what pods used that are no longer here.
        pods: by uid.
        failed: the backend could not tell; this is what it told before.
    """

    started_at: float
    sampled_at: float
    ended_cpu_seconds: float = 0.0
    pods: Mapping[str, Measured] = {}
    failed: bool = False

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all pods since the node began to count; never falls."""
        return self.ended_cpu_seconds + sum(pod.cpu_seconds for pod in self.pods.values())

    @property
    def memory_bytes(self) -> int:
        """Working set of all containers."""
        return sum(pod.memory_bytes for pod in self.pods.values())


def next_usage(node: NodeUsage, samples: Iterable[PodUsage], *, now: float) -> NodeUsage:
    """The node after a new sample of all its pods; a pod without one is no longer counted as running."""
    pods = {sample.identity.uid: _next(node.pods.get(sample.identity.uid), sample) for sample in samples}
    ended = sum(pod.cpu_seconds for uid, pod in node.pods.items() if uid not in pods)
    newest = max((pod.latest.sampled_at for pod in pods.values()), default=now)
    return NodeUsage(
        started_at=node.started_at,
        sampled_at=max(node.sampled_at, newest),
        ended_cpu_seconds=node.ended_cpu_seconds + ended,
        pods=pods,
    )


def _next(pod: Measured | None, sample: PodUsage) -> Measured:
    if pod is None:
        return Measured(sample, None, sum(container.cpu_seconds for container in sample.containers))
    if sample.sampled_at <= pod.latest.sampled_at:
        return pod  # the backend has nothing newer
    before = _by_run(pod.latest)
    return Measured(sample, pod.latest, pod.cpu_seconds + sum(_used(c, before) for c in sample.containers))


def _used(container: ContainerUsage, before: Mapping[tuple[str, float], ContainerUsage]) -> float:
    earlier = before.get((container.name, container.started_at))
    return max(0.0, container.cpu_seconds - (earlier.cpu_seconds if earlier else 0.0))


def _by_run(pod: PodUsage | None) -> dict[tuple[str, float], ContainerUsage]:
    return {
        (container.name, container.started_at): container for container in (pod.containers if pod else ())
    }
