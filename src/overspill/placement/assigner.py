"""The assigner: everything that is watched, brought together by policy.

In: batches of pods, nodes, workloads and policies. Out: keys in three queues: policies to look at, pods to write,
namespaces to index. Invariants: nothing is decided before all that is watched is known whole; whatever happens
within one batch leads to one look at each policy that it touches.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import cache, partial

import structlog

from overspill import metrics
from overspill.errors import Conflict, NotFound, OverspillError, Retry
from overspill.kube.cache import Cache, Key
from overspill.kube.client import Client
from overspill.kube.events import Events
from overspill.kube.frames import Batch
from overspill.kube.queue import Queue
from overspill.placement.annotated import AnnotatedDeployments
from overspill.placement.capacity import Capacity
from overspill.placement.decide import Surroundings
from overspill.placement.index import IndexWriter
from overspill.placement.latest import Latest, latest
from overspill.placement.managed import Managed, Outcome
from overspill.placement.match import Directory, PolicyKey, workload_keys
from overspill.placement.nodes import Node
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy, TargetRef
from overspill.placement.pools import Refusal
from overspill.placement.report import Reporter
from overspill.placement.workloads import ReplicaSet, Revisions, Workload
from overspill.placement.write import PodWriter, reference

__all__ = ["Assigner"]

log = structlog.get_logger(__name__)

# How long an index is given to reach every apiserver before its policies count as indexed.
INDEX_SETTLES = 2.0
# After indexes could not be listed.
INDEXES_AGAIN = 2.0
# A gated pod of no policy is let go after this: its policy went while it was made.
ORPHAN_AFTER = 1.0


class Assigner:
    """Places the pods of all policies of a cluster, while this process leads."""

    def __init__(self, client: Client, events: Events, *, sure: Callable[[], bool]) -> None:
        """`sure` tells whether no other process can lead; asked before every write."""
        self.pods: Cache[Pod] = Cache()
        self.nodes: Cache[Node] = Cache()
        self.replica_sets: Cache[ReplicaSet] = Cache()
        self.deployments: Cache[Workload] = Cache()
        self.stateful_sets: Cache[Workload] = Cache()
        self.policies: Cache[Policy] = Cache()
        self.writer = PodWriter(client, self.pods, self, events, sure=sure)
        self.looks: Queue[PolicyKey] = Queue(self._look, name="placement-policies", workers=4)
        self.indexes: Queue[str] = Queue(self._index, name="placement-indexes", workers=2)
        self.annotated = AnnotatedDeployments(client, self.deployments, self._policy, events)
        self._client = client
        self._latest: dict[str, Latest] = {}  # by namespace, as it was less than ORPHAN_AFTER ago
        self._events = events
        self._directory = Directory()
        self._revisions = Revisions()
        self._managed: dict[PolicyKey, Managed] = {}
        self._policy_of: dict[str, PolicyKey] = {}
        self._first_seen: dict[str, float] = {}
        self._offers: dict[str, tuple[object, ...]] = {}  # of each node, by name
        self._left: Capacity | None = None  # on all nodes, as long as nothing changes
        # Policies the marks of all whose pods are looked at after the next look.
        self._unwritten: set[PolicyKey] = set()
        self._index_writer = IndexWriter(client)
        self._reporter = Reporter(client, self._managed.get, self._desired)

    async def run(self) -> None:
        """Work until cancelled; everything that is watched must be known by now."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._find_indexes(), name="indexes that are left")
            tasks.create_task(self.writer.queue.run(), name="pod writers")
            tasks.create_task(self.looks.run(), name="policies")
            tasks.create_task(self.indexes.run(), name="indexes")
            tasks.create_task(self._reporter.queue.run(), name="policy statuses")
            tasks.create_task(self.annotated.queue.run(), name="annotated Deployments")

    # --- what is watched ---

    def pods_changed(self, batch: Batch[Pod]) -> None:
        """Take in a batch of pods."""
        now, self._left = time.monotonic(), None
        for key in self.pods.apply(batch):
            pod = self.pods.get(key)
            if pod is None:
                self._pod_gone(key)
            else:
                self._pod_changed(key, pod, now)

    def nodes_changed(self, batch: Batch[Node]) -> None:
        """Take in a batch of nodes: pods that run there may be adopted now, others find what they wait for, or move."""
        changed = False
        for key in self.nodes.apply(batch):
            before, node = self._offers.pop(key.name, None), self.nodes.find("", key.name)
            if node is not None:
                self._offers[key.name] = node.offer
            changed = changed or self._offers.get(key.name) != before
        if changed:
            self._left = None
            self._look_at(
                name
                for name, managed in self._managed.items()
                if managed.state.strays
                or managed.state.waiting
                or managed.policy.spec.rebalance.mode != "Disabled"
            )

    def replica_sets_changed(self, batch: Batch[ReplicaSet]) -> None:
        """Take in a batch of ReplicaSets: revisions may have become old, or new again, or want more or fewer pods."""
        flipped: set[tuple[str, str]] = set()
        for key in self.replica_sets.apply(batch):
            found = self.replica_sets.get(key)
            if found is None:
                flipped.update(self._revisions.remove(key.namespace, key.name))
            else:
                flipped.update(self._revisions.put(found))
            self._look_at(
                (key.namespace, policy.metadata.name)
                for policy in self._directory.of(key.namespace)
                if not _tells_replicas(policy.spec.target_ref)
                and key.name in self._managed[key.namespace, policy.metadata.name].state.replica_sets
            )
        if flipped:
            self._refresh(flipped)

    def workloads_changed(self, cache: Cache[Workload], batch: Batch[Workload]) -> None:
        """Take in a batch of Deployments or StatefulSets: how many pods they want."""
        for key in cache.apply(batch):
            if cache is self.deployments:
                self.annotated.changed(key.namespace, key.name)
            for policy in self._directory.of(key.namespace):
                target = policy.spec.target_ref
                if target is not None and target.name == key.name:
                    self.looks.add((key.namespace, policy.metadata.name))

    def policies_changed(self, batch: Batch[Policy]) -> None:
        """Take in a batch of policies."""
        self._left = None
        for key in self.policies.apply(batch):
            policy = self.policies.get(key)
            if policy is None:
                if self.policies.find(key.namespace, key.name) is None:
                    self._policy_gone((key.namespace, key.name))
            else:
                self._policy_changed(policy)
            self.indexes.add(key.namespace)
            self.annotated.changed(key.namespace, key.name)

    # --- what others ask ---

    def _policy(self, name: PolicyKey) -> Policy | None:
        return self.policies.find(*name)

    def managed_of(self, uid: str) -> Managed | None:
        """The policy of a pod."""
        return self._managed.get(self._policy_of.get(uid, ("", "")))

    def awaits_policy(self, pod: Pod) -> bool:
        """Whether a pod is of an annotated Deployment whose policy is still to be made."""
        return any(
            self.annotated.makes(pod.metadata.namespace, key.removeprefix("apps/Deployment/"))
            for key in workload_keys(pod)
            if key.startswith("apps/Deployment/")
        )

    async def is_late(self, pod: Pod) -> bool:
        """Whether a policy gates a pod, or is to be made for it, that the watches have not brought yet.

        Raises:
            OverspillError: the apiserver could not be asked.
        """
        namespace, now = pod.metadata.namespace, time.monotonic()
        self._latest = {each: known for each, known in self._latest.items() if now - known.at < ORPHAN_AFTER}
        if namespace not in self._latest:
            self._latest[namespace] = await latest(self._client, namespace)
        return self._latest[namespace].places(pod)

    def around(self, managed: Managed) -> Surroundings:
        """What surrounds a policy."""
        namespace = managed.policy.metadata.namespace
        target = managed.policy.spec.target_ref
        start: int | None = 0
        if target is not None and (target.api_version, target.kind) == ("apps/v1", "StatefulSet"):
            found = self.stateful_sets.find(namespace, target.name)
            start = found.spec.ordinals.start if found else None  # its pods may be seen before it
        return Surroundings(
            now=time.monotonic(),
            nodes=self.nodes.values,
            node=partial(self.nodes.find, ""),
            is_old=partial(self._revisions.is_old, namespace),
            first_ordinal=start,
            refused=managed.refused,
            capacity=cache(self._capacity),
        )

    def _capacity(self) -> Capacity:
        """What is left on all nodes, less what was sent to a pool and has no node yet."""
        if self._left is None:
            self._left = self._reckon()
        return self._left.copy()

    def _reckon(self) -> Capacity:
        left = Capacity(self.nodes.values(), self.pods.values())
        for managed in self._managed.values():
            state = managed.state
            for uid, seat in state.seats.items():
                if seat.pool >= 0 and not state.pods[uid].bound:
                    left.take(state.pods[uid], managed.policy.spec.pools[seat.pool])
        return left

    def refused(self, key: Key, pool: int, refusal: Refusal) -> None:
        """The apiserver does not let a pod go to a pool: it gets another."""
        managed = self.managed_of(key.uid)
        if managed is not None:
            self._left = None
            managed.refuse(key.uid, pool, refusal, time.monotonic())
            self.looks.add(self._policy_of[key.uid])

    # --- pods ---

    def _pod_changed(self, key: Key, pod: Pod, now: float) -> None:
        matching = self._directory.matching(pod)
        if not matching:
            self._of_no_policy(key, pod)
            return
        policy = (key.namespace, matching[0].metadata.name)
        before = self._policy_of.get(key.uid)
        if before is not None and before != policy:
            self._leave(before, key.uid)
            self._unwritten.add(policy)
        self._policy_of[key.uid] = policy
        self._managed[policy].apply(pod, now)
        for younger in matching[1:]:
            self._managed[key.namespace, younger.metadata.name].older = policy[1]
            self.looks.add((key.namespace, younger.metadata.name))
        self._time(key.uid, pod, now)
        self.looks.add(policy)
        self.writer.heard(key)
        if self._managed[policy].state.owes(key.uid):
            # What was written here may be there and overwritten by now: versions between two looks are not seen.
            self.writer.queue.add(key)

    def _of_no_policy(self, key: Key, pod: Pod) -> None:
        self._leave(self._policy_of.pop(key.uid, None), key.uid)
        if pod.gated and not pod.deleting:
            self.writer.queue.add(key, after=ORPHAN_AFTER)

    def _pod_gone(self, key: Key) -> None:
        self._leave(self._policy_of.pop(key.uid, None), key.uid)
        self._first_seen.pop(key.uid, None)
        self.writer.forget(key.uid)

    def _leave(self, policy: PolicyKey | None, uid: str) -> None:
        """A pod is of a policy no more, which itself may be gone."""
        if policy is not None and policy in self._managed:
            self._managed[policy].remove(uid)
            self.looks.add(policy)

    def _time(self, uid: str, pod: Pod, now: float) -> None:
        if pod.gated:
            self._first_seen.setdefault(uid, now)
        elif uid in self._first_seen:
            metrics.GATE_SECONDS.observe(now - self._first_seen.pop(uid))

    # --- policies ---

    def _policy_changed(self, policy: Policy) -> None:
        name = (policy.metadata.namespace, policy.metadata.name)
        managed = self._managed.get(name)
        if managed is None or managed.policy.metadata.uid != policy.metadata.uid:
            managed = self._managed[name] = Managed(policy)
            managed.remember(policy.status, wall=time.time(), now=time.monotonic())
            spec_changed = True
        else:
            spec_changed = managed.policy.spec != policy.spec or managed.policy.gates != policy.gates
            if spec_changed:
                managed.edit(policy)
            else:
                managed.renew(policy)
        self._directory.put(policy)
        if spec_changed:
            self._reassign(name[0])
            self._unwritten.add(name)
        self.looks.add(name)

    def _policy_gone(self, name: PolicyKey) -> None:
        self._directory.remove(*name)
        self._managed.pop(name, None)
        self._unwritten.discard(name)
        self._reporter.report(name)
        self._reassign(name[0])

    def _reassign(self, namespace: str) -> None:
        """Find the policy of each pod of a namespace anew."""
        now = time.monotonic()
        for policy in self._directory.of(namespace):
            self._managed[namespace, policy.metadata.name].older = ""
        for pod in self.pods.values():
            if pod.metadata.namespace == namespace:
                self._pod_changed(Key(namespace, pod.metadata.name, pod.metadata.uid), pod, now)

    def _refresh(self, flipped: set[tuple[str, str]]) -> None:
        """Have the marks of all pods of some ReplicaSets looked at again."""
        for managed in self._managed.values():
            namespace = managed.policy.metadata.namespace
            for uid, seat in managed.state.seats.items():
                if (namespace, seat.revision) in flipped:
                    self.writer.queue.add(Key(namespace, managed.state.pods[uid].metadata.name, uid))

    def _look_at(self, policies: Iterable[PolicyKey]) -> None:
        for policy in list(policies):
            self.looks.add(policy)

    # --- work ---

    async def _look(self, name: PolicyKey) -> float | None:
        managed = self._managed.get(name)
        if managed is None:
            return None
        if not managed.policy.gates:
            return await self._wind_up(name, managed)
        outcome = managed.look(self.around(managed), desired=self._desired(managed) or 0)
        if outcome.decisions.placed:
            self._left = None
        for pod in self._to_write(name, managed, outcome):
            self.writer.queue.add(_key(pod))
        for pod, how in outcome.decisions.placed:
            if how.rank == 0:
                text = "; ".join(
                    f"pool {managed.state.pool_name(index)} {why.message}" for index, why in how.passed
                )
                self._events.warning(reference(pod), "PoolConflict", f"it is beyond its pool's limit: {text}")
        refused = [
            *[await _refusal(self.writer.delete(pod, why)) for pod, why in outcome.doomed],
            *[await _refusal(self.writer.evict(pod)) for pod in outcome.moving],
        ]
        self._reporter.report(name)
        for error in filter(None, refused):
            raise error
        return outcome.due

    def _to_write(self, name: PolicyKey, managed: Managed, outcome: Outcome) -> list[Pod]:
        pods = managed.state.pods
        if name in self._unwritten:  # a leader before this one may have come to its end amid its writes
            self._unwritten.discard(name)
            return list(pods.values())
        placed = [pod for pod, _ in outcome.decisions.placed]
        return [*placed, *(pods[uid] for uid in outcome.decisions.touched), *outcome.overdue]

    async def _wind_up(self, name: PolicyKey, managed: Managed) -> float | None:
        """Let all pods of a suspended or deleted policy go, but those that await another; then the policy itself."""
        self._reporter.report(name)
        gated = [
            pod
            for pod in managed.state.pods.values()
            if pod.gated and not pod.deleting and not self.awaits_policy(pod)
        ]
        for pod in gated:
            self.writer.queue.add(_key(pod))
        if managed.policy.metadata.deletion_timestamp is None or gated:
            return None
        if self._index_writer.names(managed.policy):
            return None  # it would outlive the policy if another process led from now on; once written, it looks again
        with contextlib.suppress(Conflict, NotFound):  # its newer version comes here too
            await self._index_writer.let_go(managed.policy)
        return None

    def _desired(self, managed: Managed) -> int | None:
        """How many pods the workload wants; None when there is no such workload."""
        target, namespace = managed.policy.spec.target_ref, managed.policy.metadata.namespace
        if target is None or not _tells_replicas(target):
            return managed.state.desired(partial(self._replicas, namespace))
        cache = self.deployments if target.kind == "Deployment" else self.stateful_sets
        found = cache.find(namespace, target.name)
        return found.spec.replicas if found else None

    def _replicas(self, namespace: str, name: str) -> int | None:
        found = self.replica_sets.find(namespace, name)
        return found.spec.replicas if found else None

    async def _find_indexes(self) -> None:
        """Have those looked at whose last policy went when nobody led, or when another did: pods would wait by them for ever."""
        while True:
            try:
                for namespace in await self._index_writer.namespaces():
                    self.indexes.add(namespace)
            except Retry as error:
                log.warning("indexes not listed", error=str(error))
                await asyncio.sleep(INDEXES_AGAIN)
            else:
                return

    async def _index(self, namespace: str) -> float | None:
        policies = self._directory.of(namespace)
        await self._index_writer.write(namespace, policies)
        left = 0.0
        for policy in policies:
            if not policy.gates:  # the index does not name it, by now
                self.looks.add((namespace, policy.metadata.name))
                continue
            # Each by its own time: where policies come one after the other, none is to wait for the last.
            settles = self._index_writer.named_since(policy) + INDEX_SETTLES - time.monotonic()
            if settles > 0:
                left = max(left, settles)
                continue
            with contextlib.suppress(Conflict, NotFound):  # its newer version comes here too
                await self._index_writer.mark_indexed(policy)
        return left or self._index_writer.due(namespace)


async def _refusal(write: Awaitable[object]) -> OverspillError | None:
    """What a write met with; one that is refused holds up no other."""
    try:
        await write
    except OverspillError as error:
        return error
    return None


def _tells_replicas(target: TargetRef | None) -> bool:
    """Whether a policy's target is watched for how many pods it wants; otherwise its ReplicaSets are asked."""
    return (
        target is not None
        and target.kind in {"Deployment", "StatefulSet"}
        and target.api_version.startswith("apps/")
    )


def _key(pod: Pod) -> Key:
    return Key(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
