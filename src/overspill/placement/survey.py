"""Placement as anybody can see it, without the controller.

In: a cluster, read once. Out: each policy with its pods; a pod explained; gated pods let go. Invariant: the state
is built by the same code as the controller's, from the same objects.
"""

import time
from collections.abc import Iterator
from functools import partial

from overspill.errors import Conflict, NotFound
from overspill.kube.client import JSON_PATCH, Client
from overspill.kube.resources import NODES, PLACEMENT_POLICIES, PODS, REPLICASETS, STATEFULSETS
from overspill.placement import patch
from overspill.placement.decide import Surroundings, assignment_for
from overspill.placement.explain import explain
from overspill.placement.managed import Managed
from overspill.placement.match import Directory
from overspill.placement.nodes import Node
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.workloads import ReplicaSet, Revisions, Workload

__all__ = ["explain_pod", "release_pods", "survey"]


async def survey(client: Client, namespace: str) -> list[Managed]:
    """The policies of a namespace ("" for all) with their pods."""
    policies = await client.list(PLACEMENT_POLICIES, namespace=namespace, kind=Policy)
    pods = await client.list(PODS, namespace=namespace, kind=Pod)
    directory, managed = Directory(), {}
    for policy in policies:
        directory.put(policy)
        managed[policy.metadata.namespace, policy.metadata.name] = Managed(policy)
    now = time.monotonic()
    for each in managed.values():
        each.remember(each.policy.status, wall=time.time(), now=now)
    for pod in pods:
        matching = directory.matching(pod)
        if matching:
            managed[pod.metadata.namespace, matching[0].metadata.name].apply(pod, now)
    return list(managed.values())


async def explain_pod(client: Client, namespace: str, name: str) -> list[str]:
    """Why a pod is where it is.

    Raises:
        NotFound: there is no such pod.
    """
    pod = await client.get(PODS, name, namespace=namespace, kind=Pod)
    uid = pod.metadata.uid
    for managed in await survey(client, namespace):
        if uid not in managed.state.pods:
            continue
        around = await _surroundings(client, managed)
        waits = uid in managed.state.waiting
        would = assignment_for(managed.state, managed.cooldowns, around, pod) if waits else None
        return list(explain(managed.state, pod, would))
    return list(_of_no_policy(pod))


def _of_no_policy(pod: Pod) -> Iterator[str]:
    name = pod.metadata.name
    if pod.ended or pod.deleting:
        yield f"Pod {name} has ended, or is being deleted; it has no place any more."
        return
    yield f"Pod {name} is of no PlacementPolicy of namespace {pod.metadata.namespace}."
    if pod.gate is not None:
        yield "It waits all the same; the controller lets it go, or `overspill placement release` does."


async def _surroundings(client: Client, managed: Managed) -> Surroundings:
    namespace, target = managed.policy.metadata.namespace, managed.policy.spec.target_ref
    nodes = await client.list(NODES, kind=Node)
    revisions = Revisions()
    for found in await client.list(REPLICASETS, namespace=namespace, kind=ReplicaSet):
        revisions.put(found)
    start = 0
    if target is not None and target.kind == "StatefulSet":
        workload = await client.get(STATEFULSETS, target.name, namespace=namespace, kind=Workload)
        start = workload.spec.ordinals.start
    by_name = {node.metadata.name: node for node in nodes}
    return Surroundings(
        now=time.monotonic(),
        nodes=by_name.values,
        node=by_name.get,
        is_old=partial(revisions.is_old, namespace),
        first_ordinal=start,
    )


async def release_pods(client: Client, namespace: str, names: list[str]) -> list[str]:
    """Take our gate off pods, all of the namespace without names; the names of those that were let go."""
    released = []
    for pod in await client.list(PODS, namespace=namespace, kind=Pod):
        if pod.gate is None or (names and pod.metadata.name not in names):
            continue
        try:
            await client.patch(
                PODS,
                pod.metadata.name,
                patch.release(pod),
                namespace=pod.metadata.namespace,
                content_type=JSON_PATCH,
            )
        except (Conflict, NotFound):  # somebody else was first
            continue
        released.append(f"{pod.metadata.namespace}/{pod.metadata.name}")
    return released
