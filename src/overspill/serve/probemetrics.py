"""`/metrics/probes`: how the probes of this node's containers went, in the kubelet's series.

In: a `ProbeCount` for each probe. Out: Prometheus text. Pure. Invariant: a probe has a line for each result that
it has had, and no other.
Source: k8s.io/kubernetes pkg/kubelet/prober/{prober_manager,worker}.go.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from overspill.backends.base import TOOK_BOUNDS, ProbeCount

__all__ = ["probe_metrics"]

TOTAL = """\
# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.
# TYPE prober_probe_total counter
"""
DURATION = """\
# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.
# TYPE prober_probe_duration_seconds histogram
"""


def probe_metrics(counts: Iterable[ProbeCount]) -> bytes:
    """The text."""
    every = list(counts)
    totals = "".join(line for count in every for line in _totals(count))
    durations = "".join(line for count in every for line in _durations(count))
    return ((TOTAL + totals if totals else "") + (DURATION + durations if durations else "")).encode()


def _labels(count: ProbeCount) -> str:
    who = count.identity
    return f'container="{count.container}",namespace="{who.namespace}",pod="{who.name}",probe_type="{count.kind}"'


def _totals(count: ProbeCount) -> Iterator[str]:
    labels = f'{_labels(count)},pod_uid="{count.identity.uid}"'
    for result, number in (("successful", count.successful), ("failed", count.failed)):
        if number:
            yield f'prober_probe_total{{{labels},result="{result}"}} {number}\n'


def _durations(count: ProbeCount) -> Iterator[str]:
    if not count.successful:
        return
    name, labels = "prober_probe_duration_seconds", _labels(count)
    for bound, number in zip((*TOOK_BOUNDS, "+Inf"), accumulate(count.took), strict=True):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {number}\n'
    yield f"{name}_sum{{{labels}}} {count.seconds!r}\n"
    yield f"{name}_count{{{labels}}} {count.successful}\n"
