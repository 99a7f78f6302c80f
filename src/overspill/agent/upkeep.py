"""What a running pod was given and has changed since: the files of its volumes, its tokens.

In: a pod that the backend has, and what its files were made of. Out: `Backend.refresh` with those volumes
alone that have to be made anew. Invariant: nothing here has to survive the process; of a pod that an earlier
agent started all files are resolved once, and the backend leaves alone what is the same.
Source: https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically
"""

import random
import time
from collections.abc import Callable, Collection, Mapping

import structlog
from msgspec import Struct

from overspill.agent.freshness import UNKNOWN, Freshness
from overspill.agent.references import ObjectName, volume_objects
from overspill.agent.scope import Missing, NodeFacts
from overspill.agent.sources import Sources
from overspill.agent.spec import Resolved, resolve_volumes
from overspill.backends.base import Backend
from overspill.errors import NotFound, Rejected, Unsupported
from overspill.kube.cache import Key
from overspill.kube.events import Events, ObjectRef
from overspill.metrics import BackendCall
from overspill.model.pods import Pod
from overspill.model.podvolumes import DownwardItem, DownwardSource, Volume
from overspill.model.work import Files, Identity
from overspill.model.work import Volume as ResolvedVolume

__all__ = ["Upkeep"]

log = structlog.get_logger(__name__)

# A restarted agent does not know how old its pods' tokens are: it renews them all, spread over this time. They are
# renewed at 80 % of their life, so that what is left of one is more than this part.
ADOPTED_REFRESH_WITHIN, ADOPTED_REFRESH_PART = 600.0, 0.1
# A token that could not be had: its ServiceAccount, or what else its volume holds, is not there.
TRIED_AGAIN = 60.0
NEVER = float("inf")
LASTING_FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid"}


class _Kept(Struct):
    """What one pod's files depend on beside ConfigMaps and Secrets.

    Attributes:
        tokens_due: when its tokens are to be renewed, seconds since 1970.
        facts: what its downward files were made of, as a hash; None: it has none that can change.
    """

    tokens_due: float = NEVER
    facts: int | None = None


NOTHING = _Kept()  # shared by all pods whose files never change
UNKNOWN_FACTS = 0


class Upkeep:
    """Keeps the files of this node's running pods up to date."""

    def __init__(
        self,
        *,
        backend: Backend,
        sources: Sources,
        events: Events,
        node: NodeFacts,
        freshness: Freshness,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._sources = sources
        self._events = events
        self._node = node
        self._freshness = freshness
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def begin(self, key: Key, pod: Pod, resolved: Resolved) -> float | None:
        """The backend has taken the pod on; returns the seconds until it is to be tended, if ever by itself."""
        if not self._backend.capabilities.reads_files:
            return None
        facts = _facts(pod) if any(map(_tells_of_pod, _declared(pod, resolved.work.volumes))) else None
        tokens_due = _tokens_due(resolved.work.volumes, self._clock())
        kept = NOTHING if facts is None and tokens_due == NEVER else _Kept(tokens_due, facts)
        self._kept[key.uid] = kept
        self._freshness.follow(key, resolved.used)
        return self._until_due(kept)

    async def tend(self, key: Key, pod: Pod, identity: Identity) -> float | None:
        """Make anew what is out of date; returns the seconds until the next time, if ever by itself.

        Raises:
            Retry, Misconfigured: the apiserver or the backend could not be asked.
        """
        if not self._backend.capabilities.reads_files:
            return None
        kept = self._kept.get(key.uid)
        if kept is None:
            kept = self._kept[key.uid] = self._adopt(key, pod)
        stale = self._freshness.take_stale(key)
        told = kept.facts is not None and kept.facts != _facts(pod)
        if stale or told or kept.tokens_due <= self._clock():
            try:
                await self._refresh(key, pod, identity, kept, stale=stale)
            except BaseException:
                self._freshness.give_back(key, stale)
                raise
        return self._until_due(kept)

    def forget(self, key: Key) -> None:
        """The pod is no more."""
        self._kept.pop(key.uid, None)
        self._freshness.forget(key)

    async def _refresh(
        self, key: Key, pod: Pod, identity: Identity, kept: _Kept, *, stale: Collection[ObjectName]
    ) -> None:
        spec = pod.decoded_spec()
        facts = _facts(pod)
        tokens = kept.tokens_due <= self._clock()
        names = {
            volume.name
            for volume in spec.volumes
            if (tokens and _token_lives(volume))
            or (kept.facts != facts and _tells_of_pod(volume))
            or any(name in stale for name in volume_objects(volume, key.namespace))
        }
        renewed = await resolve_volumes(pod, spec, names, self._sources, self._node)
        if renewed.problems:  # what is there stays, as under a kubelet
            self._warn(key, str(Missing(renewed.problems)))
        await self._hand_over(key, identity, renewed.volumes)
        self._freshness.follow(key, renewed.used)
        if kept is not NOTHING:
            kept.facts = None if kept.facts is None else facts
            if tokens:
                now = self._clock()
                kept.tokens_due = now + TRIED_AGAIN if renewed.problems else _tokens_due(renewed.volumes, now)

    async def _hand_over(self, key: Key, identity: Identity, volumes: Mapping[str, ResolvedVolume]) -> None:
        try:
            with BackendCall(self._backend.name, "refresh"):
                await self._backend.refresh(identity, volumes)
        except NotFound:
            log.info("pod whose files changed is unknown to the backend", pod=f"{key.namespace}/{key.name}")
        except (Rejected, Unsupported) as error:
            self._warn(key, f"the changed files cannot be had: {error}")

    def _adopt(self, key: Key, pod: Pod) -> _Kept:
        """A pod that an earlier agent started: nobody knows what its files were made of."""
        volumes = pod.decoded_spec().volumes
        used = {name: UNKNOWN for volume in volumes for name in volume_objects(volume, key.namespace)}
        self._freshness.follow(key, used)
        kept = _Kept()
        if lives := [life for volume in volumes for life in _token_lives(volume)]:
            within = min(ADOPTED_REFRESH_WITHIN, ADOPTED_REFRESH_PART * min(lives))
            kept.tokens_due = self._clock() + random.uniform(0, within)  # noqa: S311 - spreads load
        if any(map(_tells_of_pod, volumes)):
            kept.facts = UNKNOWN_FACTS
        return NOTHING if kept == NOTHING else kept

    def _until_due(self, kept: _Kept) -> float | None:
        due = kept.tokens_due
        return None if due == NEVER else max(due - self._clock(), 0.0)

    def _warn(self, key: Key, message: str) -> None:
        regarding = ObjectRef(
            kind="Pod", api_version="v1", namespace=key.namespace, name=key.name, uid=key.uid
        )
        self._events.warning(regarding, "FailedMount", message)


def _declared(pod: Pod, made: Mapping[str, ResolvedVolume]) -> Collection[Volume]:
    """The volumes as the pod declares them, decoded only if there are files among them."""
    return pod.decoded_spec().volumes if any(isinstance(volume, Files) for volume in made.values()) else ()


def _tokens_due(volumes: Mapping[str, ResolvedVolume], now: float) -> float:
    ages = [v.refresh_after for v in volumes.values() if isinstance(v, Files) and v.refresh_after is not None]
    # Not all at once: pods that were made together would renew theirs together, for as long as they live.
    return now + min(ages) * random.uniform(0.9, 1.0) if ages else NEVER  # noqa: S311 - spreads load


def _facts(pod: Pod) -> int:
    """Whatever of a pod its downward files can tell, and that can change."""
    meta = pod.metadata
    return hash((bytes(meta.labels), bytes(meta.annotations), meta.generation)) or 1


def _token_lives(volume: Volume) -> list[int]:
    """For how many seconds each token of a volume is asked for."""
    sources = () if volume.projected is None else volume.projected.sources
    tokens = [source.service_account_token for source in sources]
    return [token.expiration_seconds for token in tokens if token is not None]


def _tells_of_pod(volume: Volume) -> bool:
    """Whether files of it tell something of the pod that can change: labels, annotations, resources."""
    return any(_can_change(item) for source in _downward(volume) for item in source.items)


def _downward(volume: Volume) -> list[DownwardSource]:
    sources = [volume] if volume.projected is None else volume.projected.sources
    return [source.downward_api for source in sources if source.downward_api is not None]


def _can_change(item: DownwardItem) -> bool:
    return item.field_ref is None or item.field_ref.field_path not in LASTING_FIELDS
