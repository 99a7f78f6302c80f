"""Resizing running pods: a change of a pod's requests and limits, brought to the backend.

In: a pod whose spec has changed, the observation of it. Out: one call of `Backend.resize`, or the reason why
not. Invariant: what a backend tells of what it has taken on is believed, not remembered; only of a backend that
tells nothing is it remembered what it was given, and it is not asked for what it had anyway.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

import time
from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from overspill.agent.admission import Admission
from overspill.agent.containers import resources
from overspill.agent.plan import Memory, Resize
from overspill.backends.base import Backend
from overspill.errors import NotFound, Unsupported
from overspill.metrics import BackendCall
from overspill.model.observation import Observation
from overspill.model.pods import Pod, PodSpec
from overspill.model.work import Resources, WorkSpec

__all__ = ["Resizer"]

# Seconds after which it is looked again whether others have made room.
DEFERRED_AGAIN = 10.0


class Resizer:
    """Brings the pods' resources and the backend's into step."""

    def __init__(
        self, backend: Backend, admission: Admission, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._clock = clock

    def begin(self, pod: Pod, work: WorkSpec, memory: Memory) -> None:
        """The backend has taken the pod on as it is."""
        given = {each.name: each.resources for each in (*work.init_containers, *work.containers)}
        memory.resize = Resize(pod.metadata.generation, _hash(_resizable_of(work), given))

    async def tend(self, pod: Pod, seen: Observation, memory: Memory) -> float | None:
        """Have what the pod asks for by now; returns the seconds until it is to be tried again, if so.

        Raises:
            Retry: the backend cannot tell now.
        """
        before, generation = memory.resize, pod.metadata.generation
        if before.generation == generation:
            return None
        wanted = _wanted(pod.decoded_spec())
        changed = _changed(wanted, seen, before.given)
        settled = Resize(generation, _hash(wanted, wanted))
        if not changed:
            memory.resize = settled
            return None
        reason, message = await self._ask(pod, seen, changed)
        if not reason:
            memory.resize = structs.replace(settled, since=self._clock())
            return None
        same = (reason, message) == (before.reason, before.message)
        since = before.since if same else self._clock()
        again = reason == "Deferred"
        memory.resize = Resize(-1 if again else generation, before.given, reason, message, since)
        return DEFERRED_AGAIN if again else None

    async def _ask(self, pod: Pod, seen: Observation, changed: Mapping[str, Resources]) -> tuple[str, str]:
        """Reason and message why it cannot be had, empty if it can."""
        if seen.containers and seen.containers[0].allocated is None:
            return await self._call(seen, changed)  # it will refuse: nothing has to be counted
        refusal = self._admission.resize(pod)
        return (refusal.reason, refusal.message) if refusal else await self._call(seen, changed)

    async def _call(self, seen: Observation, changed: Mapping[str, Resources]) -> tuple[str, str]:
        try:
            with BackendCall(self._backend.name, "resize"):
                await self._backend.resize(seen.identity, changed)
        except Unsupported as error:
            return "Infeasible", str(error)
        except NotFound:
            pass  # `Gone` follows
        return "", ""


def _wanted(spec: PodSpec) -> dict[str, Resources]:
    """What those containers are to have that can be resized: not the init containers that just pass by."""
    sidecars = [init for init in spec.init_containers if init.restart_policy == "Always"]
    return {each.name: resources(each.resources) for each in (*sidecars, *spec.containers)}


def _resizable_of(work: WorkSpec) -> list[str]:
    sidecars = [init for init in work.init_containers if init.restart_policy == "Always"]
    return [each.name for each in (*sidecars, *work.containers)]


def _changed(wanted: Mapping[str, Resources], seen: Observation, given: int | None) -> dict[str, Resources]:
    """Of what is wanted, what the backend has not taken on."""
    has = {each.name: each.allocated for each in (*seen.init_containers, *seen.containers)}
    told = {name: allocated for name, allocated in has.items() if allocated is not None}
    if told:
        return {name: each for name, each in wanted.items() if told.get(name, each) != each}
    # A new agent cannot know what such a backend was given, and takes it to be what is wanted.
    return {} if given in {None, _hash(wanted, wanted)} else dict(wanted)


def _hash(names: Iterable[str], values: Mapping[str, Resources]) -> int:
    return hash(tuple([(name, values[name]) for name in names]))
