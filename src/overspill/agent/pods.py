"""Pods of this node: from what is wanted and what is seen to one backend call at a time.

In: batches of the pod watch, sightings of the backend. Out: backend calls, statuses to the
writer, Events. Invariant: one run per pod at a time (the queue's promise); what this process
remembers of a pod can be lost at any moment without harm.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog
from msgspec import structs

from overspill import names
from overspill.agent.admission import UNSUPPORTED, Admission, Refusal
from overspill.agent.deadline import EXCEEDED, seconds_left, shortened, spent
from overspill.agent.endings import exit_codes
from overspill.agent.ephemeral import EphemeralContainers
from overspill.agent.freshness import Freshness
from overspill.agent.images import change_images
from overspill.agent.plan import Create, Delete, Fail, Finalize, Forget, Memory, Nothing, Recall, Report, plan
from overspill.agent.podevents import changes
from overspill.agent.resize import Resizer
from overspill.agent.sources import Sources
from overspill.agent.spec import Missing, NodeFacts, Resolved, resolve
from overspill.agent.upkeep import Upkeep
from overspill.backends.base import Backend
from overspill.backoff import backoff
from overspill.errors import Conflict, Misconfigured, NotFound, Rejected, Retry, Unsupported
from overspill.kube.cache import Cache, Key
from overspill.kube.client import Client
from overspill.kube.events import Events, ObjectRef
from overspill.kube.queue import Queue
from overspill.kube.resources import PODS
from overspill.kube.watch import Batch
from overspill.kube.write import StatusWriter
from overspill.metrics import POD_START_SECONDS, BackendCall
from overspill.model.gates import readiness_gates
from overspill.model.observation import (
    ContainerObservation,
    Gone,
    Happened,
    Observation,
    Running,
    Sighting,
    Terminated,
    Waiting,
)
from overspill.model.pods import Pod
from overspill.model.podstatus import (
    PodStatus,
    encode,
    failed_status,
    phase_of,
    refused_status,
    seconds,
    to_pod_status,
    waiting_status,
)
from overspill.model.resizing import with_generation
from overspill.model.work import Identity, WorkSpec

__all__ = ["Pods"]

log = structlog.get_logger(__name__)

# ContainerCreating is written only for pods that take longer than this to start.
PENDING_TOLD_AFTER = 1.0
# Waiting for a ConfigMap or Secret: first soon, then every half minute.
MISSING_FIRST, MISSING_CAP = 1.0, 30.0
# While it is not sure that no other agent is this node.
UNSURE_PAUSE = 2.0


class Pods:
    """Brings this node's pods and the backend's into step, pod by pod."""

    def __init__(  # noqa: PLR0913 - the composition root hands over every part
        self,
        *,
        client: Client,
        backend: Backend,
        writer: StatusWriter,
        events: Events,
        sources: Sources,
        admission: Admission,
        node: NodeFacts,
        workers: int,
        sure: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`sure`: whether no other agent can be this node by now."""
        self.cache: Cache[Pod] = Cache()
        self.queue = Queue(self.reconcile, name="pods", workers=workers)
        self._client = client
        self._backend = backend
        self._writer = writer
        self._events = events
        self._sources = sources
        self._admission = admission
        self._node = node
        self._sure = sure
        self._clock = clock
        self.freshness = Freshness(sources, stale=self.queue.add)
        self._upkeep = Upkeep(
            backend=backend,
            sources=sources,
            events=events,
            node=node,
            freshness=self.freshness,
            clock=clock,
        )
        self._resizer = Resizer(backend, admission, clock=clock)
        self._ephemeral = EphemeralContainers(backend, sources, node)
        self._started = POD_START_SECONDS.labels(backend.name)
        self._seen: dict[str, Observation] = {}
        self._memory: dict[str, Memory] = {}

    # --- what comes in ---

    def changed(self, batch: Batch[Pod]) -> None:
        """Take in what the apiserver says; our own writes coming back are no news."""
        for key, times in self.cache.apply(batch).items():
            pod = self.cache.get(key)
            # The newest of several changes, or since a list, may be ours, and those before it somebody else's.
            alone = times == 1 and not batch.replace
            if pod is None or not (alone and self._writer.is_echo(key, pod.metadata.resource_version)):
                self.queue.add(key)
            if pod is None or pod.ended:
                self._admission.release(key.uid)
            if pod is not None:
                self._compare(key, pod, listed=batch.replace)
        if batch.replace:
            for seen in self._seen.values():  # orphans: the backend runs what the apiserver does not know
                self.queue.add(_key(seen.identity))

    def _compare(self, key: Key, pod: Pod, *, listed: bool) -> None:
        """Doubt our status where another stands: the control plane takes Ready from the pods of a node it does not hear.

        What changes beside the status, such as a label, costs no PATCH.
        """
        memory = self._remember(key)
        if listed or memory.mark != pod.status.mark:
            self._writer.doubt(key, pod.metadata.resource_version, listed=listed)
        memory.mark = pod.status.mark

    async def relist(self) -> Sequence[Observation]:
        """Take in the backend's whole list, and return it: what it no longer has is gone.

        Raises:
            Retry: the backend cannot tell now.
        """
        # What is taken on while the list is on its way can be missing from it.
        expected = {seen.identity for seen in self._seen.values()}
        with BackendCall(self._backend.name, "list"):
            listing = await self._backend.list()
        present = {seen.identity.uid for seen in listing}
        missing = [seen for uid, seen in self._seen.items() if uid not in present]
        gone = [Gone(seen.identity, seen) for seen in missing if seen.identity in expected]
        self.sighted([*listing, *gone])
        return listing

    def sighted(self, sightings: Iterable[Sighting]) -> None:
        """Take in what changed at the backend."""
        for sighting in sightings:
            key = _key(sighting.identity)
            if isinstance(sighting, Happened):
                tell = self._events.warning if sighting.warning else self._events.normal
                tell(_reference(key, sighting.container), sighting.reason, sighting.message)
                continue
            memory = self._remember(key)
            memory.attempt = max(memory.attempt, sighting.identity.attempt)
            if isinstance(sighting, Gone):
                memory.last = sighting.last or self._seen.get(key.uid)
                self._seen.pop(key.uid, None)
                self.queue.add(key)
            else:
                self._observed(key, sighting, memory)

    def _observed(self, key: Key, seen: Observation, memory: Memory) -> None:
        before = self._seen.get(key.uid)
        if before is not None and before.unknown:
            before = None
            if not seen.unknown:
                self.queue.add(key)  # what is to be done could not be decided before
        self._seen[key.uid] = seen
        pod = self.cache.get(key)
        if pod is None or seen.deleting:
            if pod is not None and before is not None and _serves_otherwise(pod, before, seen):
                self._put(key, pod, seen)
            if self.cache.synced.is_set():
                self.queue.add(key)
            return
        if pod.ended:
            self.queue.add(key)  # something of it may begin only now
        if before is not None or pod.status.phase in {"", "Pending"}:  # else an earlier agent has told of it
            self._tell_changes(key, before, seen)
        if phase_of(seen) == "Pending" and not memory.waits:
            self.queue.add(key, after=PENDING_TOLD_AFTER)
        else:
            self._report(key, pod, seen)

    def phases(self) -> Counter[str]:
        """How many of the backend's pods are in each phase."""
        return Counter(phase_of(seen) for seen in self._seen.values())

    def close(self, why: str) -> None:
        """Start no pod any more: the node is to go."""
        self._admission.closed = why

    @property
    def groups(self) -> int:
        """How many pods the backend has."""
        return len(self._seen)

    def seen(self, uid: str) -> Observation | None:
        """How a pod stands at the backend."""
        return self._seen.get(uid)

    def status(self, key: Key, pod: Pod, seen: Observation) -> PodStatus:
        """A pod's status, as it is seen."""
        seen = self._ephemeral.told(key.uid, seen)
        told = to_pod_status(
            seen, host_ip=self._node.ip, gates=readiness_gates(pod), start_time=pod.status.start_time
        )
        resize = self._remember(key).resize
        return with_generation(
            told,
            pod.metadata.generation,
            seen=seen,
            reason=resize.reason,
            message=resize.message,
            since=resize.since or seen.started_at,
        )

    # --- what is done ---

    async def reconcile(self, key: Key) -> float | None:
        """Take one step for one pod; returns the seconds until it is to be looked at again, if ever."""
        pod, seen, memory = self.cache.get(key), self._seen.get(key.uid), self._remember(key)
        left = self._seconds_left(pod, seen, memory)
        exceeded = EXCEEDED if left is not None and left <= 0 else None
        again = await self._step(key, pod, seen, memory, exceeded)
        return again if left is None or left <= 0 else min(left, again or left)

    async def _step(
        self, key: Key, pod: Pod | None, seen: Observation | None, memory: Memory, exceeded: Fail | None
    ) -> float | None:
        match plan(pod, seen, memory, exceeded=exceeded):
            case Create(attempt) if pod is not None:
                return await self._create(key, pod, memory, attempt)
            case Recall():
                memory.exit_codes = await exit_codes(self._client, key)
                return await self.reconcile(key)  # what was seen meanwhile counts
            case Delete(grace):
                return await self._delete(key, pod, memory, grace)
            case Finalize() if pod is not None:
                await self._finalize(key, pod, memory)
            case Fail() as why if pod is not None:
                self._fail(key, pod, memory, why)
            case Report() if pod is not None and memory.last is not None:
                self._put(key, pod, memory.last)
            case Forget():
                self._forget(key)
            case Nothing() if pod is not None and seen is not None and not pod.ended:
                self._admission.adopt(pod)
                again = await self._resize(key, pod, seen, memory)
                if kept := await change_images(self._backend, pod, seen, memory):
                    self._events.warning(_reference(key), names.NOT_HONOURED, kept)
                debug = await self._debug(key, pod, seen)
                self._report(key, pod, seen)
                due = await self._upkeep.tend(key, pod, seen.identity)
                return min((after for after in (again, debug, due) if after is not None), default=None)
        return None

    def _seconds_left(self, pod: Pod | None, seen: Observation | None, memory: Memory) -> float | None:
        if pod is None:
            return None
        since = self._since(pod, memory) if pod.status.start_time or not seen else seen.started_at
        told = memory.deadline if seen else math.inf  # nobody else sees to one that waits for what is missing
        return seconds_left(pod, since=since, now=self._clock(), told=told)

    async def _create(self, key: Key, pod: Pod, memory: Memory, attempt: int) -> float | None:
        refusal = self._admission.admit(pod)
        if refusal is not None:
            self._refuse(key, pod, memory, refusal)
            return None
        try:
            resolved = await self._resolve(key, pod, attempt)
            work = shortened(resolved.work, spent(pod, now=self._clock()))
            with BackendCall(self._backend.name, "create"):
                await self._backend.create(work)
        except Missing as missing:
            return self._wait_for(key, pod, memory, missing)
        except (Unsupported, Rejected) as error:
            self._refuse(key, pod, memory, Refusal(UNSUPPORTED, str(error), terminal=False))
            return None
        except Misconfigured as error:
            self._events.warning(_reference(key), "FailedCreatePodContainer", str(error))
            raise
        if memory.attempt < attempt:  # its first sighting is on the way, and this run may be followed at once
            self._seen[key.uid] = _recorded(work, self._clock())
        memory.attempt, memory.waits = attempt, 0
        memory.deadline = resolved.work.active_deadline_seconds or math.inf
        self._resizer.begin(pod, work, memory)
        memory.images = pod.metadata.generation
        return self._upkeep.begin(key, pod, resolved)

    async def _resolve(self, key: Key, pod: Pod, attempt: int) -> Resolved:
        """Resolve a pod, and tell what the user should know of it; the errors are those of `resolve`."""
        try:
            resolved = await resolve(pod, self._sources, self._node, attempt=attempt)
        except Rejected as error:  # a token, by an admission webhook or a policy: no fault of the pod's
            self._events.warning(_reference(key), "FailedMount", str(error))
            raise Retry(str(error)) from error
        for warning in resolved.warnings:
            self._events.warning(_reference(key), warning.reason, warning.message)
        return resolved

    async def _resize(self, key: Key, pod: Pod, seen: Observation, memory: Memory) -> float | None:
        before = memory.resize
        again = await self._resizer.tend(pod, seen, memory)
        if memory.resize.reason and memory.resize.message != before.message:
            self._events.warning(
                _reference(key), f"Resize{memory.resize.reason}", f"Pod resize: {memory.resize.message}"
            )
        return again

    async def _debug(self, key: Key, pod: Pod, seen: Observation) -> float | None:
        def tell(container: str, reason: str, message: str) -> None:
            path = f"spec.ephemeralContainers{{{container}}}"
            self._events.warning(_reference(key, path), reason, message)

        return await self._ephemeral.tend(pod, seen, tell)

    async def _delete(self, key: Key, pod: Pod | None, memory: Memory, grace: int) -> float | None:
        if pod is None and not self._sure():
            return UNSURE_PAUSE  # it may be a pod of our successor's, which we have not heard of
        memory.asked_grace = grace
        seen = self._seen[key.uid]
        self._events.normal(_reference(key), "Killing", f"Stopping the pod's containers within {grace} s")
        try:
            with BackendCall(self._backend.name, "delete"):
                await self._backend.delete(seen.identity, grace_seconds=grace)
        except NotFound:
            # Only `Gone` or a list may say that it is gone; both come by themselves.
            log.info("pod to delete is unknown to the backend", pod=f"{key.namespace}/{key.name}")
        return None

    async def _finalize(self, key: Key, pod: Pod, memory: Memory) -> None:
        if _end_is_read(pod) and not pod.ended:
            status = with_generation(self._last_status(pod, memory), pod.metadata.generation)
            self._writer.put(key, encode(status))
            await self._writer.flush(key)
        try:
            await self._client.delete(PODS, key.name, namespace=key.namespace, uid=key.uid, grace_seconds=0)
        except (NotFound, Conflict):
            log.debug("pod was removed already", pod=f"{key.namespace}/{key.name}")
        memory.removed = True

    # --- what is told ---

    def _fail(self, key: Key, pod: Pod, memory: Memory, why: Fail) -> None:
        """The pod ended without its backend saying how; what was last seen of its containers stays."""
        self._events.warning(_reference(key), why.reason, why.message)
        last = memory.last
        if last is None:
            status = failed_status(
                since=self._since(pod, memory), now=self._clock(), reason=why.reason, message=why.message
            )
        else:
            ended = tuple(_unaccounted(each, self._clock()) for each in last.containers)
            last = structs.replace(
                last, containers=ended, failed=True, ending=False, reason=why.reason, message=why.message
            )
            status = to_pod_status(last, host_ip=self._node.ip, start_time=pod.status.start_time)
        self._writer.put(key, encode(with_generation(status, pod.metadata.generation)))

    def _refuse(self, key: Key, pod: Pod, memory: Memory, refusal: Refusal) -> None:
        memory.held = pod.metadata.generation
        self._events.warning(_reference(key), refusal.reason, refusal.message)
        if refusal.terminal:
            status = refused_status(
                since=self._since(pod, memory), reason=refusal.reason, message=refusal.message
            )
        else:
            status = self._waiting(key, pod, memory, refusal.reason, refusal.message)
        self._writer.put(key, encode(with_generation(status, pod.metadata.generation)))

    def _wait_for(self, key: Key, pod: Pod, memory: Memory, missing: Missing) -> float:
        self._events.warning(_reference(key), missing.event, str(missing))
        status = self._waiting(key, pod, memory, missing.reason, str(missing))
        self._writer.put(key, encode(with_generation(status, pod.metadata.generation)))
        memory.waits += 1
        return backoff(memory.waits, first=MISSING_FIRST, cap=MISSING_CAP) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def _report(self, key: Key, pod: Pod, seen: Observation) -> None:
        """Hand the status to the writer; a pod on its way out gets its last words in `_finalize` or `_fail`."""
        going = pod.metadata.deletion_timestamp is not None or seen.deleting
        if not going and not pod.ended and not seen.unknown:
            self._put(key, pod, seen)

    def _put(self, key: Key, pod: Pod, seen: Observation) -> None:
        status = self.status(key, pod, seen)
        self._writer.put(key, encode(status), annotations=seen.annotations)
        if status.phase == "Running" and pod.status.phase != "Running":
            self._started.observe(max(self._clock() - seconds(pod.metadata.creation_timestamp), 0.0))

    def _tell_changes(self, key: Key, before: Observation | None, seen: Observation) -> None:
        for told in changes(before, seen):
            tell = self._events.warning if told.warning else self._events.normal
            tell(_reference(key, told.field_path), told.reason, told.message)

    def _waiting(self, key: Key, pod: Pod, memory: Memory, reason: str, message: str) -> PodStatus:
        # Not decoded: it may be refused because that cannot be done.
        images = [(each["name"], each.get("image", "")) for each in pod.plain_spec()["containers"]]
        return waiting_status(
            self._identity(key),
            images,
            since=self._since(pod, memory),
            host_ip=self._node.ip,
            reason=reason,
            message=message,
        )

    def _last_status(self, pod: Pod, memory: Memory) -> PodStatus:
        last = memory.last
        if last is not None and phase_of(last) in {"Succeeded", "Failed"}:
            return to_pod_status(last, host_ip=self._node.ip, start_time=pod.status.start_time)
        return refused_status(since=self._since(pod, memory), reason="", message="")

    # --- what is remembered ---

    def _remember(self, key: Key) -> Memory:
        memory = self._memory.get(key.uid)
        if memory is None:
            memory = self._memory[key.uid] = Memory(first_seen=self._clock())
        return memory

    def _forget(self, key: Key) -> None:
        self._memory.pop(key.uid, None)
        self._upkeep.forget(key)
        self._ephemeral.forget(key.uid)
        self._admission.release(key.uid)
        self._writer.forget(key)

    def _identity(self, key: Key) -> Identity:
        return Identity(self._node.cluster, self._node.name, key.namespace, key.name, key.uid)

    def _since(self, pod: Pod, memory: Memory) -> float:
        return seconds(pod.status.start_time) if pod.status.start_time else memory.first_seen


def _key(identity: Identity) -> Key:
    return Key(identity.namespace, identity.name, identity.uid)


def _recorded(work: WorkSpec, now: float) -> Observation:
    """A pod that the backend has taken on and told nothing of yet."""
    waiting = Waiting("PodInitializing" if work.init_containers else "ContainerCreating")
    return Observation(
        work.identity,
        now,
        tuple([ContainerObservation(each.name, waiting, each.image) for each in work.containers]),
        tuple([ContainerObservation(each.name, waiting, each.image) for each in work.init_containers]),
    )


def _serves_otherwise(pod: Pod, before: Observation, seen: Observation) -> bool:
    """Whether other containers of a deleted pod are ready than before, while any runs: EndpointSlices tell who still serves."""
    leaves = pod.metadata.deletion_timestamp is not None and not pod.ended
    now, earlier = ([each.ready for each in one.containers] for one in (seen, before))
    return leaves and now != earlier and any(isinstance(each.state, Running) for each in seen.containers)


def _end_is_read(pod: Pod) -> bool:
    """Whether somebody reads the final status of a deleted pod: a Job counts it, a finalizer's owner may."""
    return bool(pod.metadata.finalizers) or any(owner.kind == "Job" for owner in pod.metadata.owners())


def _unaccounted(container: ContainerObservation, now: float) -> ContainerObservation:
    """A container of which nobody has told how it ended, in the kubelet's words."""
    if not isinstance(container.state, Running):
        return container
    message = "The container could not be located when the pod was terminated"
    state = Terminated(137, "ContainerStatusUnknown", container.state.started_at, now, message)
    return structs.replace(container, state=state, ready=False, started=False)


def _reference(key: Key, field_path: str = "") -> ObjectRef:
    return ObjectRef(
        kind="Pod",
        api_version="v1",
        namespace=key.namespace,
        name=key.name,
        uid=key.uid,
        field_path=field_path,
    )
