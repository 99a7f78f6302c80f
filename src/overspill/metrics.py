"""Every Prometheus series of overspill, declared once.

In: what the parts count and time. Out: `exposition()`, the text of /metrics. Invariant: no name of a
pod stands in a label; what is timed is timed once per pod or call, not per event; what can be looked
up when somebody asks (`observe_pods`, `WATCH_AGE.labels(…).set_function`) costs nothing until then.
Names that client-go's programs use too mean the same here.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from overspill import __version__

__all__ = [
    "BACKEND_REQUEST_SECONDS",
    "CONTAINER_GROUPS",
    "CONTENT_TYPE",
    "DECOMMISSION_SECONDS",
    "GATE_SECONDS",
    "KUBELET_CONNECTIONS",
    "KUBELET_REQUESTS",
    "LEADER",
    "LEASE_AGE",
    "ORPHANS_DELETED",
    "ORPHANS_DOUBTED",
    "ORPHANS_LOOKED_AT",
    "ORPHAN_PRICE",
    "PLACEMENT_CONFLICTS",
    "PODS_PLACED",
    "POD_START_SECONDS",
    "QUEUE_ADDS",
    "QUEUE_DEPTH",
    "QUEUE_RETRIES",
    "QUOTA_SHARE",
    "QUOTA_WAITING",
    "QUOTA_WAIT_SECONDS",
    "REGISTRY",
    "REST_REQUESTS",
    "STATUS_WAITING",
    "WATCH_AGE",
    "WATCH_RELISTS",
    "WEBHOOK_REQUESTS",
    "BackendCall",
    "exposition",
    "observe_pods",
]

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry(auto_describe=True)

POD_START_SECONDS = Histogram(
    "overspill_pod_start_seconds",
    "From a pod's creation to the first time it was seen running, as the agent sees both.",
    ["backend"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300),
    registry=REGISTRY,
)
BACKEND_REQUEST_SECONDS = Histogram(
    "overspill_backend_request_seconds",
    "Calls of the backend; `code` is OK or the kind of error.",
    ["backend", "op", "code"],
    buckets=(0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
    registry=REGISTRY,
)
WATCH_AGE = Gauge(
    "overspill_watch_last_event_age_seconds",
    "Seconds since anything was heard from a watch.",
    ["resource"],
    registry=REGISTRY,
)
WATCH_RELISTS = Counter(
    "overspill_watch_relists",
    "How often a watch had to begin anew with a list, the first time not counted.",
    ["resource"],
    registry=REGISTRY,
)
LEASE_AGE = Gauge(
    "overspill_node_lease_age_seconds", "Seconds since the node's lease was last renewed.", registry=REGISTRY
)
STATUS_WAITING = Gauge(
    "overspill_pod_status_writes_waiting",
    "Pod statuses that are to be written and wait for their turn.",
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("workqueue_depth", "Keys that wait in a work queue.", ["name"], registry=REGISTRY)
QUEUE_ADDS = Counter("workqueue_adds", "Keys added to a work queue.", ["name"], registry=REGISTRY)
QUEUE_RETRIES = Counter(
    "workqueue_retries", "Keys put back into a work queue after a failure.", ["name"], registry=REGISTRY
)
QUOTA_WAITING = Gauge(
    "overspill_quota_waiting",
    "Calls that wait for their turn under the cloud account's quota.",
    ["backend", "budget"],
    registry=REGISTRY,
)
QUOTA_WAIT_SECONDS = Gauge(
    "overspill_quota_wait_seconds",
    "How long a call would wait for its turn that came now.",
    ["backend", "budget"],
    registry=REGISTRY,
)
QUOTA_SHARE = Gauge(
    "overspill_quota_share",
    "The part of the account's quota that this agent uses at most; its agents share it by their demand.",
    ["backend", "budget"],
    registry=REGISTRY,
)
KUBELET_CONNECTIONS = Gauge(
    "overspill_kubelet_connections",
    "Open connections of the kubelet API, streams among them.",
    registry=REGISTRY,
)
KUBELET_REQUESTS = Counter(
    "overspill_kubelet_requests",
    "Requests to the kubelet API; `route` is the first part of the path, `code` the HTTP status.",
    ["route", "code"],
    registry=REGISTRY,
)
REST_REQUESTS = Counter(
    "rest_client_requests",
    "Requests to the apiserver; `code` is the HTTP status, or <error> without one.",
    ["code", "method", "host"],
    registry=REGISTRY,
)

LEADER = Gauge(
    "leader_election_master_status",
    "Whether this process holds the Lease of that name: 1 or 0.",
    ["name"],
    registry=REGISTRY,
)
CONTAINER_GROUPS = Gauge(
    "overspill_container_groups",
    "Groups at the backend over all nodes, as the leader saw them last, by what they are to this cluster.",
    ["state"],
    registry=REGISTRY,
)
DECOMMISSION_SECONDS = Gauge(
    "overspill_decommission_oldest_seconds",
    "For how long the node is being decommissioned that has been so the longest; 0 if none is.",
    registry=REGISTRY,
)
ORPHAN_PRICE = Gauge(
    "overspill_orphans_price_per_second",
    "What groups cost now that no pod wants; those of unknown price are left out.",
    ["currency"],
    registry=REGISTRY,
)
ORPHANS_DELETED = Counter(
    "overspill_orphans_deleted",
    "Groups that were deleted because no pod wants them.",
    ["state"],
    registry=REGISTRY,
)
ORPHANS_DOUBTED = Gauge(
    "overspill_orphans_doubted",
    "1 while there seem to be so many orphans that none is deleted until a person looks.",
    registry=REGISTRY,
)
ORPHANS_LOOKED_AT = Gauge(
    "overspill_orphans_last_look_timestamp_seconds",
    "When the leader last saw all groups and all pods, of Unix time; 0 on replicas that do not lead.",
    registry=REGISTRY,
)

PODS_PLACED = Counter(
    "overspill_placement_pods_placed",
    "Pods that were let go, by the place of their pool in the policy, from 0.",
    ["pool"],
    registry=REGISTRY,
)
PLACEMENT_CONFLICTS = Counter(
    "overspill_placement_conflicts",
    "Writes of a pod that had changed, or gone, in the meantime.",
    registry=REGISTRY,
)
GATE_SECONDS = Histogram(
    "overspill_placement_gate_seconds",
    "From when a pod that waits for its pool was first seen until it was seen let go.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)

WEBHOOK_REQUESTS = Counter(
    "overspill_webhook_requests",
    "Requests for admission; `webhook` is the last part of its path, `answer` patched, unchanged or refused.",
    ["webhook", "answer"],
    registry=REGISTRY,
)

BUILD = Gauge(
    "overspill_build_info", "Always 1; the version of this program.", ["version"], registry=REGISTRY
)
BUILD.labels(__version__).set(1)

GCCollector(REGISTRY)
PlatformCollector(REGISTRY)
ProcessCollector(registry=REGISTRY)


def exposition() -> bytes:
    """All series as text, in `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)


class BackendCall:
    """Times one call of a backend: `with BackendCall("podman", "create"): …`."""

    __slots__ = ("_backend", "_began", "_op")

    def __init__(self, backend: str, op: str) -> None:
        self._backend = backend
        self._op = op
        self._began = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = kind.__name__ if kind else "OK"
        took = time.perf_counter() - self._began
        _timer(self._backend, self._op, code).observe(took)


@lru_cache(maxsize=256)
def _timer(backend: str, op: str, code: str) -> Histogram:
    """Looking a series up by its labels costs more than observing."""
    return BACKEND_REQUEST_SECONDS.labels(backend, op, code)


class _Pods(Collector):
    """Counts pods by phase when somebody asks."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("overspill_pods", "Pods of this node by phase.", labels=["phase"])
        for phase, number in self._count().items():
            family.add_metric([phase], number)
        yield family


def observe_pods(count: Callable[[], Mapping[str, int]]) -> Callable[[], None]:
    """Show `overspill_pods{phase}` from what `count` says at each scrape; call the result to stop that."""
    pods = _Pods(count)
    REGISTRY.register(pods)
    return lambda: REGISTRY.unregister(pods)
