"""`/metrics/cadvisor`: the series that dashboards know from real nodes, as far as there are figures.

In: the newest sample, how its containers stand. Out: Prometheus text. Pure. Invariants: a series that no backend
measures is absent, never 0; every line has the labels by which dashboards tell containers from cgroups above
them, `image` and `name`.
Source: github.com/google/cadvisor/metrics, k8s.io/kubernetes pkg/kubelet/server (containerPrometheusLabelsFunc).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.model.observation import ContainerObservation

__all__ = ["cadvisor_metrics"]

Seen = Mapping[tuple[str, str], ContainerObservation]

SERIES: tuple[tuple[str, str, str, str, Callable[[ContainerUsage], float]], ...] = (
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        'cpu="total",',
        lambda usage: usage.cpu_seconds,
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        "",
        lambda usage: usage.memory_bytes,
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        "",
        lambda usage: usage.started_at,
    ),
)


def cadvisor_metrics(pods: Iterable[PodUsage], seen: Seen) -> bytes:
    """The text, stamped with the times of the samples; `seen` is by the pod's uid and the container's name."""
    sampled = [(_labels(pod, usage, seen), pod, usage) for pod in pods for usage in pod.containers]
    return "".join(line for series in SERIES for line in _series(sampled, *series)).encode()


def _labels(pod: PodUsage, usage: ContainerUsage, seen: Seen) -> str:
    who = pod.identity
    found = seen.get((who.uid, usage.name))
    image, name = (found.image, found.container_id.rpartition("/")[2]) if found else ("", "")
    return (
        f'container="{usage.name}",image="{image}",name="{name}",namespace="{who.namespace}",pod="{who.name}"'
    )


def _series(
    sampled: Iterable[tuple[str, PodUsage, ContainerUsage]],
    name: str,
    kind: str,
    text: str,
    first: str,
    value: Callable[[ContainerUsage], float],
) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, pod, usage in sampled:
        yield f"{name}{{{first}{labels}}} {value(usage)} {int(pod.sampled_at * 1000)}\n"
