"""The JSON of /stats/summary, which dashboards and `kubectl get --raw` read.

In: `NodeUsage`, the node's name and memory. Out: k8s.io/kubelet/pkg/apis/stats/v1alpha1's Summary. Pure.
Invariant: what no backend measures (network, file systems, page faults) is left out, as a kubelet does
that cannot tell; a 0 would be a lie.
"""

from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from msgspec import UNSET, Struct, UnsetType

from overspill.backends.base import ContainerUsage
from overspill.serve.nodeusage import Measured, NodeUsage

__all__ = ["summary"]

NANO = 1_000_000_000


class _Cpu(Struct, frozen=True, rename="camel"):
    time: str
    usage_nano_cores: int
    usage_core_nano_seconds: int


class _Memory(Struct, frozen=True, rename="camel"):
    time: str
    working_set_bytes: int
    available_bytes: int | UnsetType = UNSET


class _Node(Struct, frozen=True, rename="camel"):
    node_name: str
    start_time: str
    cpu: _Cpu
    memory: _Memory


class _PodRef(Struct, frozen=True):
    name: str
    namespace: str
    uid: str


class _Container(Struct, frozen=True, rename="camel"):
    name: str
    start_time: str
    cpu: _Cpu
    memory: _Memory


class _Pod(Struct, frozen=True, rename="camel"):
    pod_ref: _PodRef
    start_time: str
    containers: list[_Container]
    cpu: _Cpu
    memory: _Memory


class _Summary(Struct, frozen=True):
    node: _Node
    pods: list[_Pod]


def summary(node: NodeUsage, *, node_name: str, memory_bytes: int) -> bytes:
    """The Summary; of CPU and memory alone, so that `?only_cpu_and_memory=true` changes nothing.

    `memory_bytes` is the node's capacity.
    """
    return msgspec.json.encode(
        _Summary(
            node=_Node(
                node_name=node_name,
                start_time=_time(node.started_at),
                cpu=_Cpu(
                    _time(node.sampled_at),
                    _nano(sum(sum(pod.rates().values()) for pod in node.pods.values())),
                    _nano(node.cpu_seconds),
                ),
                memory=_Memory(
                    _time(node.sampled_at), node.memory_bytes, max(0, memory_bytes - node.memory_bytes)
                ),
            ),
            pods=[_pod(pod) for pod in node.pods.values()],
        )
    )


def _pod(pod: Measured) -> _Pod:
    identity, at, rates = pod.latest.identity, _time(pod.latest.sampled_at), pod.rates()
    return _Pod(
        pod_ref=_PodRef(identity.name, identity.namespace, identity.uid),
        start_time=_time(min((each.started_at for each in pod.latest.containers), default=0.0)),
        containers=[_container(each, rate=rates[each.name], at=at) for each in pod.latest.containers],
        cpu=_Cpu(at, _nano(sum(rates.values())), _nano(pod.cpu_seconds)),
        memory=_Memory(at, pod.memory_bytes),
    )


def _container(usage: ContainerUsage, *, rate: float, at: str) -> _Container:
    return _Container(
        name=usage.name,
        start_time=_time(usage.started_at),
        cpu=_Cpu(at, _nano(rate), _nano(usage.cpu_seconds)),
        memory=_Memory(at, usage.memory_bytes),
    )


def _nano(value: float) -> int:
    return round(value * NANO)


def _time(seconds: float) -> str:
    """RFC 3339 in whole seconds, as metav1.Time is written."""
    return _moment(int(seconds))


@lru_cache(maxsize=1024)
def _moment(seconds: int) -> str:
    """One sample has the same time for most of its pods."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
