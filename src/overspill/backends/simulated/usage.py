"""What simulated containers use: smooth curves that depend on the pod and the time alone.

In: a running container, the time. Out: `ContainerUsage`. Invariant: CPU seconds never fall within a
run, since they are the integral of a rate that is always above zero.
"""

import math

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.backends.simulated.life import ContainerLife, PodLife
from overspill.backends.simulated.options import chance
from overspill.model.observation import Running

__all__ = ["pod_usage"]

PERIOD, SWING = 600.0, 0.3  # CPU goes up and down by 30 % in ten minutes
WARM_UP = 120.0  # seconds in which memory fills
CPU_SHARE, MEMORY_SHARE = 0.5, 0.8  # of what is requested
IDLE_CPU, SMALL_MEMORY = 0.01, 64 << 20  # of containers that request nothing


def pod_usage(pod: PodLife, now: float) -> PodUsage | None:
    """One pod's consumption; None when nothing of it runs."""
    phase = 2 * math.pi * chance(pod.identity.uid)
    containers = tuple(
        ContainerUsage(
            name=container.spec.name,
            cpu_seconds=_cpu_seconds(container, now - container.state.started_at, phase),
            memory_bytes=_memory(container, now - container.state.started_at, phase),
            started_at=container.state.started_at,
        )
        for container in pod.containers
        if isinstance(container.state, Running)
    )
    return PodUsage(pod.identity, now, containers) if containers else None


def _cpu_seconds(container: ContainerLife, age: float, phase: float) -> float:
    resources = container.spec.resources
    mean = container.behaviour.cpu or CPU_SHARE * (resources.cpu_request or 0) or IDLE_CPU
    mean = min(mean, (resources.cpu_limit or math.inf) / (1 + SWING))
    turn = 2 * math.pi / PERIOD
    wave = (math.sin(turn * age + phase) - math.sin(phase)) / turn
    return mean * (age + SWING * wave)


def _memory(container: ContainerLife, age: float, phase: float) -> int:
    resources = container.spec.resources
    full = container.behaviour.memory or MEMORY_SHARE * (resources.memory_request or 0) or SMALL_MEMORY
    filled = 1 - 0.5 * math.exp(-age / WARM_UP) + 0.02 * math.sin(2 * math.pi * age / PERIOD + phase)
    return int(min(full * filled, resources.memory_limit or math.inf))
