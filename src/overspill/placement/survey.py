"""Placement as anybody can see it, without the controller.

In: a cluster, read once. Out: each policy with its pods; whether a controller works; a pod explained; gated pods let
go. Invariant: the state is built by the same code as the controller's, from the same objects.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial

from msgspec import Struct

from overspill.errors import Conflict, Misconfigured, NotFound
from overspill.kube.client import JSON_PATCH, Client
from overspill.kube.resources import LEASES, NODES, PLACEMENT_POLICIES, PODS, REPLICASETS, STATEFULSETS
from overspill.placement import patch
from overspill.placement.capacity import Capacity
from overspill.placement.decide import Surroundings, assignment_for
from overspill.placement.explain import explain
from overspill.placement.managed import Managed
from overspill.placement.match import Directory
from overspill.placement.nodes import Node
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.state import revision_of
from overspill.placement.workloads import ReplicaSet, Revisions, Workload

__all__ = ["explain_pod", "leading", "release_pods", "survey"]

# Much longer than the time between two renewals, since the clocks of two machines are compared.
SILENT = 60.0


async def survey(client: Client, namespace: str) -> list[Managed]:
    """The policies of a namespace ("" for all) with their pods.

    Raises:
        Misconfigured: the cluster does not know PlacementPolicies.
    """
    try:
        policies = await client.list(PLACEMENT_POLICIES, namespace=namespace, kind=Policy)
    except NotFound as error:
        raise Misconfigured(
            "this cluster knows no PlacementPolicies: `kubectl apply -k deploy/placement` brings them"
        ) from error
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
        refused = {
            index: refusal
            for index, pool in enumerate(managed.policy.spec.pools)
            if (refusal := managed.cooldowns.refusal(pool.name, around.now)) is not None
        }
        old = around.is_old(revision_of(pod))
        return list(explain(managed.state, pod, would, refused=refused, old=old))
    return list(_of_no_policy(pod))


def _of_no_policy(pod: Pod) -> Iterator[str]:
    name = pod.metadata.name
    if pod.ended or pod.deleting:
        yield f"Pod {name} has ended, or is being deleted; it has no place any more."
        return
    yield f"Pod {name} is of no PlacementPolicy of namespace {pod.metadata.namespace}."
    if pod.gated:
        yield "It waits all the same; the controller lets it go, or `overspill placement release` does."


async def _surroundings(client: Client, managed: Managed) -> Surroundings:
    namespace, target = managed.policy.metadata.namespace, managed.policy.spec.target_ref
    nodes = await client.list(NODES, kind=Node)
    revisions = Revisions()
    for found in await client.list(REPLICASETS, namespace=namespace, kind=ReplicaSet):
        revisions.put(found)
    start: int | None = 0
    if target is not None and (target.api_version, target.kind) == ("apps/v1", "StatefulSet"):
        start = None
        with contextlib.suppress(NotFound):
            workload = await client.get(STATEFULSETS, target.name, namespace=namespace, kind=Workload)
            start = workload.spec.ordinals.start
    by_name = {node.metadata.name: node for node in nodes}
    looks_for_room = any(pool.capacity_check == "Simulate" for pool in managed.policy.spec.pools)
    pods = await client.list(PODS, kind=Pod) if looks_for_room else []
    left = Capacity(nodes, pods)
    return Surroundings(
        now=time.monotonic(),
        nodes=by_name.values,
        node=by_name.get,
        is_old=partial(revisions.is_old, namespace),
        first_ordinal=start,
        capacity=lambda: left,
    )


async def release_pods(client: Client, namespace: str, names: list[str]) -> dict[str, bool]:
    """Take our gate off pods, all of a namespace ("" for any) without names.

    Returns:
        By namespace/name whether the pod waited until now; one that does not is told only if it was asked for.

    Raises:
        NotFound: there is no pod of one of the names; then none was let go.
    """
    if names:
        pods = [await client.get(PODS, name, namespace=namespace, kind=Pod) for name in names]
    else:
        found = await client.list(PODS, namespace=namespace, kind=Pod)
        pods = [pod for pod in found if pod.gated]
    return {f"{pod.metadata.namespace}/{pod.metadata.name}": await _release(client, pod) for pod in pods}


async def _release(client: Client, pod: Pod) -> bool:
    if not pod.gated:
        return False
    meta = pod.metadata
    try:
        await client.patch(
            PODS, meta.name, patch.release(pod), namespace=meta.namespace, content_type=JSON_PATCH
        )
    except (Conflict, NotFound):  # somebody else was first
        return False
    return True


class _LeaseSpec(Struct, frozen=True, rename="camel"):
    holder_identity: str = ""
    renew_time: str = ""


class _Lease(Struct, frozen=True):
    spec: _LeaseSpec = _LeaseSpec()


async def leading(client: Client, namespace: str, name: str) -> str:
    """A sentence: whether a controller works, by the Lease that the one that works renews every 2 s."""
    where = f"Lease {namespace}/{name}"
    try:
        spec = (await client.get(LEASES, name, namespace=namespace, kind=_Lease)).spec
    except NotFound:
        return f"No controller works: there is no {where}."
    except Misconfigured as error:
        return f"Whether a controller works cannot be told: {error}"
    if not spec.holder_identity or not spec.renew_time:
        return f"No controller works: nobody holds {where}."
    age = time.time() - datetime.fromisoformat(spec.renew_time).timestamp()
    if age > SILENT:
        return (
            f"No controller works: {spec.holder_identity} renewed {where} {age:.0f} s ago, and nobody since."
        )
    return f"Controller {spec.holder_identity} works; it renewed {where} {max(age, 0.0):.0f} s ago."
