"""`/metrics/cadvisor`: the series that dashboards know from real nodes, as far as there are figures.

In: the newest sample. Out: Prometheus text. Pure. Invariant: a series that no backend measures is
absent, never 0.
"""

from collections.abc import Callable, Iterable, Iterator

from overspill.backends.base import ContainerUsage, PodUsage

__all__ = ["cadvisor_metrics"]

SERIES: tuple[tuple[str, str, str, Callable[[ContainerUsage], float]], ...] = (
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        lambda usage: usage.cpu_seconds,
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        lambda usage: usage.memory_bytes,
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        lambda usage: usage.started_at,
    ),
)


def cadvisor_metrics(pods: Iterable[PodUsage]) -> bytes:
    """The text, stamped with the times of the samples."""
    sampled = list(pods)
    return "".join(line for series in SERIES for line in _series(sampled, *series)).encode()


def _series(
    pods: Iterable[PodUsage], name: str, kind: str, text: str, value: Callable[[ContainerUsage], float]
) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for pod in pods:
        who = pod.identity
        at = int(pod.sampled_at * 1000)
        for usage in pod.containers:
            labels = f'container="{usage.name}",namespace="{who.namespace}",pod="{who.name}"'
            yield f"{name}{{{labels}}} {value(usage)} {at}\n"
