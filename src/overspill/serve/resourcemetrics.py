"""The text of /metrics/resource, from which metrics-server makes `kubectl top` and the HPA's figures.

In: `NodeUsage`. Out: Prometheus' text format 0.0.4. Pure. Invariants: no CPU and no memory is ever zero,
since metrics-server drops the whole pod for one; every figure is stamped with the time of its sample, not
of the request, since a rate is the difference of two of them; lines of one container carry one time.
Source: sigs.k8s.io/metrics-server pkg/scraper/client/resource/decode.go, k8s.io/kubernetes
pkg/kubelet/metrics/collectors/resource_metrics.go.
"""

from collections.abc import Iterable, Iterator

from overspill.serve.nodeusage import Measured, NodeUsage

__all__ = ["LEAST_BYTES", "LEAST_SECONDS", "resource_metrics"]

# What a thing that runs uses at least, as it is told: metrics-server takes whole nanoseconds and bytes.
LEAST_SECONDS = 1e-9
LEAST_BYTES = 1


def resource_metrics(node: NodeUsage) -> bytes:
    """The exposition: containers and their start times, the node, pods, and whether figures are old."""
    pods = [_Lines(pod) for pod in node.pods.values()]
    stamp = _milliseconds(node.sampled_at)
    families = (
        (
            "container_cpu_usage_seconds_total counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            (line for pod in pods for line in pod.container_cpu()),
        ),
        (
            "container_memory_working_set_bytes gauge",
            "Current working set of the container in bytes",
            (line for pod in pods for line in pod.container_memory()),
        ),
        (
            "container_start_time_seconds gauge",
            "Start time of the container since unix epoch in seconds",
            (line for pod in pods for line in pod.container_start()),
        ),
        (
            "node_cpu_usage_seconds_total counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            (f"node_cpu_usage_seconds_total {max(node.cpu_seconds, LEAST_SECONDS)!r} {stamp}",),
        ),
        (
            "node_memory_working_set_bytes gauge",
            "Current working set of the node in bytes",
            (f"node_memory_working_set_bytes {max(node.memory_bytes, LEAST_BYTES)} {stamp}",),
        ),
        (
            "pod_cpu_usage_seconds_total counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            (pod.pod_cpu() for pod in pods),
        ),
        (
            "pod_memory_working_set_bytes gauge",
            "Current working set of the pod in bytes",
            (pod.pod_memory() for pod in pods),
        ),
        (
            "resource_scrape_error gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
            (f"resource_scrape_error {int(node.failed)}",),
        ),
    )
    return "".join(_family(*family) for family in families).encode()


def _family(name_and_type: str, text: str, lines: Iterable[str]) -> str:
    name = name_and_type.partition(" ")[0]
    body = "\n".join(lines)
    return f"# HELP {name} [STABLE] {text}\n# TYPE {name_and_type}\n{body}\n" if body else ""


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


class _Lines:
    """The lines about one pod; names of pods, namespaces and containers need no escapes."""

    __slots__ = ("_containers", "_cpu", "_pod", "_stamp")

    def __init__(self, pod: Measured) -> None:
        identity = pod.latest.identity
        self._pod = f'namespace="{identity.namespace}",pod="{identity.name}"}}'
        self._stamp = _milliseconds(pod.latest.sampled_at)
        self._containers = pod.latest.containers
        self._cpu = pod.cpu_seconds

    def container_cpu(self) -> Iterator[str]:
        for each in self._containers:
            used = max(each.cpu_seconds, LEAST_SECONDS)
            yield f'container_cpu_usage_seconds_total{{container="{each.name}",{self._pod} {used!r} {self._stamp}'

    def container_memory(self) -> Iterator[str]:
        for each in self._containers:
            used = max(each.memory_bytes, LEAST_BYTES)
            yield f'container_memory_working_set_bytes{{container="{each.name}",{self._pod} {used} {self._stamp}'

    def container_start(self) -> Iterator[str]:
        for each in self._containers:
            yield f'container_start_time_seconds{{container="{each.name}",{self._pod} {each.started_at:.3f}'

    def pod_cpu(self) -> str:
        return f"pod_cpu_usage_seconds_total{{{self._pod} {max(self._cpu, LEAST_SECONDS)!r} {self._stamp}"

    def pod_memory(self) -> str:
        used = max(sum(each.memory_bytes for each in self._containers), LEAST_BYTES)
        return f"pod_memory_working_set_bytes{{{self._pod} {used} {self._stamp}"
