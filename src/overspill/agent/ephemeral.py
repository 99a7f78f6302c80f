"""Ephemeral containers, as `kubectl debug` adds them to a running pod.

In: a pod, the observation of it. Out: one call of `Backend.add_ephemeral`, or why not, as an Event and in
the status. Invariant: a backend is asked only for what it does not tell of yet; what cannot be honoured is
refused by name and does not touch the pod's other containers.
Source: https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, structs

from overspill.agent.admission import UNSUPPORTED
from overspill.agent.containers import container
from overspill.agent.references import references
from overspill.agent.scope import Missing, NodeFacts, Scope
from overspill.agent.sources import Sources
from overspill.backends.base import Backend
from overspill.errors import NotFound, Rejected, Unsupported
from overspill.metrics import BackendCall
from overspill.model.fields import unsupported_fields
from overspill.model.observation import ContainerObservation, Observation, Waiting
from overspill.model.pods import EphemeralContainer, Pod
from overspill.model.work import Container

__all__ = ["EphemeralContainers"]

VERB = "debug"
RETRY_MISSING = 5.0  # seconds until it is looked again for a ConfigMap or Secret
# What an ephemeral container has of its own; all else it shares with other containers.
OWN_FIELDS = {"targetContainerName"}

Tell = Callable[[str, str, str], None]


class _Spec(Struct, frozen=True, rename="camel"):
    ephemeral_containers: tuple[EphemeralContainer, ...] = ()


_specs = msgspec.json.Decoder(_Spec)


class EphemeralContainers:
    """Those of all pods. `tell` is given container, reason and message of a warning about a pod."""

    def __init__(self, backend: Backend, sources: Sources, node: NodeFacts) -> None:
        self._backend = backend
        self._sources = sources
        self._node = node
        self._refused: dict[str, dict[str, ContainerObservation]] = {}

    def told(self, uid: str, seen: Observation) -> Observation:
        """The observation with what was refused put in as waiting, which is how `kubectl debug` hears of it."""
        refused = self._refused.get(uid)
        if not refused:
            return seen
        known = {one.name for one in seen.ephemeral_containers}
        more = [one for name, one in refused.items() if name not in known]
        return structs.replace(seen, ephemeral_containers=(*seen.ephemeral_containers, *more))

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._refused.pop(uid, None)

    async def tend(self, pod: Pod, seen: Observation, tell: Tell) -> float | None:
        """Have those run that were added; returns the seconds until it is to be tried again, if so.

        Raises:
            Retry: the backend or the apiserver cannot tell now.
        """
        wanted = self._wanted(pod, seen)
        if not wanted:
            return None
        try:
            self._check(pod, wanted)
            resolved = await self._resolved(pod, wanted)
            with BackendCall(self._backend.name, "add_ephemeral"):
                await self._backend.add_ephemeral(seen.identity, resolved)
        except Missing as missing:
            for one in wanted:
                tell(one.name, missing.event, str(missing))
            return RETRY_MISSING
        except NotFound:
            return None  # it has just ended
        except (Unsupported, Rejected) as error:
            self._refuse(pod, wanted, str(error), tell)
        return None

    def _wanted(self, pod: Pod, seen: Observation) -> Sequence[EphemeralContainer]:
        if seen.deleting or b'"ephemeralContainers"' not in bytes(pod.spec):
            return ()
        known = {one.name for one in seen.ephemeral_containers}
        known |= self._refused.get(pod.metadata.uid, {}).keys()
        return [one for one in _specs.decode(pod.spec).ephemeral_containers if one.name not in known]

    def _check(self, pod: Pod, wanted: Sequence[EphemeralContainer]) -> None:
        if VERB not in self._backend.capabilities.verbs:
            raise Unsupported(f"the {self._backend.name} backend has no ephemeral containers", fields=(VERB,))
        names = {one.name for one in wanted}
        declared = [one for one in pod.plain_spec()["ephemeralContainers"] if one["name"] in names]
        plain = [{field: one[field] for field in one.keys() - OWN_FIELDS} for one in declared]
        fields = unsupported_fields({"containers": plain}, self._backend.capabilities.pod_fields)
        if fields:
            named = [field.replace("spec.containers", "spec.ephemeralContainers") for field in fields]
            listed = ", ".join(named)
            raise Unsupported(f"the {self._backend.name} backend cannot honour {listed}", fields=named)

    async def _resolved(self, pod: Pod, wanted: Sequence[EphemeralContainer]) -> Sequence[Container]:
        # Only they are resolved: the others' files and tokens are there already.
        spec = structs.replace(
            pod.decoded_spec(),
            containers=tuple(wanted),
            init_containers=(),
            volumes=(),
            image_pull_secrets=(),
        )
        found = await self._sources.find(pod.metadata, references(spec))
        scope = Scope(pod, spec, found, self._node)
        made = [structs.replace(container(one, scope), target=one.target_container_name) for one in wanted]
        if scope.problems:
            raise Missing(scope.problems)
        return made

    def _refuse(self, pod: Pod, wanted: Sequence[EphemeralContainer], message: str, tell: Tell) -> None:
        refused = self._refused.setdefault(pod.metadata.uid, {})
        for one in wanted:
            refused[one.name] = ContainerObservation(one.name, Waiting(UNSUPPORTED, message), one.image)
            tell(one.name, UNSUPPORTED, message)
