"""What must hold whatever goes wrong: pure checkers over a `History`.

In: what was seen, the time, the faults. Out: violations, each one line for a person. Invariant: a checker that
finds nothing before the end may find something then, never the other way round, but for what it calls late.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from chaos.history import Billed, History, Pod, alive

# One reconcile: a look at the backend, a decision, a call.
RECONCILE = 10.0
# An agent on `eci` with a few hundred pods; the budget in benchmarks/README.md is for one on `simulated`.
MOST_MEGABYTES = 120.0
GROWTH_MEGABYTES = 15.0
# An agent may be stopped while it starts. How long one has to be seen after that to tell growth from a late start.
WARM_UP, LONG_ENOUGH = 60.0, 120.0
# Who makes pods fail beside the node: podgc when a Node is gone, and whoever scales virtual nodes in.
NOT_OURS = {"DeletionByPodGC", "EvictionByEvictionAPI"}


def duplicates(history: History, now: float) -> list[str]:
    """Two groups of one pod that cost money at the same time for longer than one reconcile."""
    by_pod: defaultdict[str, list[Billed]] = defaultdict(list)
    for line in history.bill:
        by_pod[line.uid].append(line)
    found = []
    for lines in by_pod.values():
        lines.sort(key=lambda line: line.began)
        for one, other in pairwise(lines):
            both = min(_end(one, now), _end(other, now)) - other.began
            if both > RECONCILE:
                found.append(f"pod {one.pod} had {one.group} and {other.group} at once for {both:.0f} s")
    return found


def leaks(history: History, now: float) -> list[str]:
    """Groups that cost money without a pod, once it is quiet."""
    found = []
    for line in history.bill:
        pod = history.pods.get(line.uid)
        if line.ended is None and (pod is None or pod.gone is not None):
            since = line.began if pod is None else pod.gone
            found.append(f"{line.group} of pod {line.pod} has run {now - since:.0f} s without its pod")
    return found


def longest_leftover(history: History, now: float) -> float:
    """For how many seconds at most a group cost money after its pod was gone, or without ever having one."""
    late = [0.0]
    for line in history.bill:
        pod = history.pods.get(line.uid)
        if pod is None or pod.gone is not None:
            late.append(_end(line, now) - (line.began if pod is None else pod.gone))
    return max(late)


def failures(history: History) -> list[str]:
    """Pods that failed although nothing in them did."""
    failed = [pod for pod in history.pods.values() if pod.failed and not _by_others(pod)]
    evicted = [pod for pod in history.pods.values() if pod.disruption == "DeletionByTaintManager"]
    return [f"pod {pod} of {pod.owner} failed: {pod.reason or 'no reason'}" for pod in failed] + [
        f"pod {pod} was evicted from {pod.node}" for pod in evicted
    ]


def _by_others(pod: Pod) -> bool:
    return pod.disruption in NOT_OURS or (pod.app == "spot" and pod.reason == "SpotInterrupted")


def base_bound(history: History) -> list[str]:
    """The base never has more pods of a revision than its policy says."""
    worst: dict[str, int] = {}
    for over in history.over:
        worst[over.revision] = max(worst.get(over.revision, 0), over.pods)
    return [f"revision {revision} had {pods} pods on the base" for revision, pods in worst.items()]


def terminating(history: History, now: float) -> list[str]:
    """Pods that were to end and are still there, once it is quiet."""
    return [
        f"pod {pod} on {pod.node} is Terminating for {now - pod.deadline:.0f} s beyond its grace"
        for pod in alive(history)
        if pod.deadline is not None and pod.deadline < now
    ]


def longest_terminating(history: History, now: float) -> float:
    """For how many seconds at most a pod was there beyond its grace."""
    ended = [pod for pod in history.pods.values() if pod.deadline is not None]
    return max(((pod.gone or now) - pod.deadline for pod in ended), default=0.0)


def memory(history: History) -> list[str]:
    """Agents hold what their pods take, and no more the longer they run."""
    found = []
    for (name, pid), samples in _by_process(history).items():
        highest = max(megabytes for _, megabytes in samples)
        if highest > MOST_MEGABYTES:
            found.append(f"{name} (pid {pid}) held {highest:.0f} MB")
        warm = [megabytes for at, megabytes in samples if at - samples[0][0] > WARM_UP]
        third = len(warm) // 3
        told = third and samples[-1][0] - samples[0][0] > WARM_UP + LONG_ENOUGH
        if told and (grown := min(warm[-third:]) - max(warm[:third])) > GROWTH_MEGABYTES:
            found.append(f"{name} (pid {pid}) grew by {grown:.0f} MB")
    return found


def _by_process(history: History) -> dict[tuple[str, int], list[tuple[float, float]]]:
    samples: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for each in history.memory:
        samples[each.name, each.pid].append((each.at, each.megabytes))
    return samples


def _end(line: Billed, now: float) -> float:
    return now if line.ended is None else line.ended


def not_running_once(history: History, desired: dict[tuple[str, str], int], virtual: str) -> Iterator[str]:
    """What is missing until every desired pod runs once, and nothing else does.

    `desired` has the number of pods by namespace and label `app`; pods of Jobs are not among them. `virtual` is what
    names of virtual nodes begin with.
    """
    now = [pod for pod in alive(history) if pod.phase not in {"Succeeded", "Failed"}]
    for (namespace, app), wanted in desired.items():
        pods = [pod for pod in now if (pod.namespace, pod.app) == (namespace, app)]
        ready = sum(pod.ready and pod.deadline is None for pod in pods)
        if ready != wanted or len(pods) != wanted:
            yield f"{namespace}/{app}: {wanted} wanted, {len(pods)} there, {ready} ready"
    yield from _unlike_the_bill([pod for pod in now if pod.node.startswith(virtual)], history.bill)


def _unlike_the_bill(pods: Iterable[Pod], bill: Iterable[Billed]) -> Iterator[str]:
    costs: defaultdict[str, int] = defaultdict(int)
    for line in bill:
        if line.ended is None:
            costs[line.uid] += 1
    for pod in pods:
        # What a Job ran may have ended a moment ago.
        if costs.pop(pod.uid, 0) not in ({0, 1} if pod.owner == "Job" else {1}):
            yield f"pod {pod} has not one running group"
    if costs:
        yield f"{len(costs)} groups cost money without a pod that should run"
