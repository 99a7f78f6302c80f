"""Where simulated pods are: all of them, their time and their addresses.

In: takes and deletes of any number of `SimulatedBackend`s. Out: sightings to the feeds of each node.
Invariant: the pods live as long as this object and its event loop, whatever backends come and go;
between two events nothing is computed, and no pod has a task.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from weakref import ReferenceType, ref

from overspill.backends.simulated.addresses import AddressPool
from overspill.backends.simulated.feed import Feed
from overspill.backends.simulated.life import PodLife
from overspill.backends.simulated.options import Options
from overspill.backends.simulated.script import Scripts
from overspill.backends.simulated.timers import Timers
from overspill.errors import NotFound, Retry
from overspill.model.observation import Gone
from overspill.model.work import Identity, WorkSpec

__all__ = ["Cloud"]

Owner = tuple[str, str]  # cluster, node


class Cloud:
    """One simulated cloud. `now`: seconds since 1970, by the machine's clock: an event loop's stands still in its sleep."""

    def __init__(self, options: Options, *, cidr: str, clock: Callable[[], float] = time.time) -> None:
        self.options = options
        self.limited = options.stock is not None
        self._addresses = AddressPool(cidr)
        self._scripts = Scripts(options)
        self.now = clock
        self._timers = Timers(self._fire, clock=clock)
        self._pods: dict[tuple[str, int], PodLife] = {}
        self._feeds: defaultdict[Owner, set[ReferenceType[Feed]]] = defaultdict(set)
        self._stock = options.stock or 0
        self._opened = False
        self._outage = ""

    def open(self) -> None:
        """From now on the outage of the options is so many seconds away; again is no error."""
        if self.options.outage_seconds and not self._opened:
            loop = asyncio.get_running_loop()
            loop.call_later(self.options.outage_after, self.fail, "a simulated outage")
            loop.call_later(self.options.outage_after + self.options.outage_seconds, self.heal)
        self._opened = True

    # --- reachable or not ---

    def fail(self, reason: str) -> None:
        """Be out of reach from now on; pods go on."""
        self._outage = f"the simulated cloud cannot be reached: {reason}"
        for owner in self._feeds:
            for feed in self._feeds_of(owner):
                feed.break_off(self._outage)

    def heal(self) -> None:
        """Be in reach again."""
        self._outage = ""

    def reach(self) -> None:
        """Do nothing, if that is possible.

        Raises:
            Retry: there is an outage.
        """
        if self._outage:
            raise Retry(self._outage)

    # --- pods ---

    def take(self, work: WorkSpec) -> None:
        """Take a pod on; a known one is left as it is.

        Raises:
            Rejected: its annotations are wrong.
            Retry: it was taken on, but the reply is lost, as its script wants it.
        """
        key = (work.identity.uid, work.identity.attempt)
        pod = self._pods.get(key)
        script = self._scripts.script(work) if pod is None or pod.lost_replies else None
        if pod is None:
            assert script
            pod = self._pods[key] = PodLife(work, script, seed=self.options.seed, at=self.now())
            pod.lost_replies = script.lost_replies
            self._advance(pod)
        if pod.lost_replies:
            pod.lost_replies -= 1
            raise Retry("the reply to this create is lost; the pod may be taken on or not")

    def end(self, identity: Identity, *, grace: float) -> None:
        """Ask for a pod's end.

        Raises:
            NotFound: there is no such pod.
        """
        pod = self.find(identity)
        pod.delete(self.now(), grace)
        if not self._advance(pod):
            self._tell(pod)

    def find(self, identity: Identity) -> PodLife:
        """One pod.

        Raises:
            NotFound: there is no such pod.
        """
        pod = self._pods.get((identity.uid, identity.attempt))
        if pod is None:
            raise NotFound(
                f"pod {identity.namespace}/{identity.name} ({identity.uid}) is not in the simulation"
            )
        return pod

    def pods(self, owner: Owner) -> Iterator[PodLife]:
        """The pods of one node."""
        return (pod for pod in self._pods.values() if _owner(pod.identity) == owner)

    def subscribe(self, owner: Owner) -> Feed:
        """A feed of what changes from now on, as long as somebody holds it."""
        feed = Feed()
        feeds = self._feeds[owner]
        feeds.add(ref(feed, feeds.discard))
        return feed

    # --- what pods take: life.Room ---

    def take_stock(self) -> bool:
        """Take room for one pod, if there is any."""
        if self.limited and not self._stock:
            return False
        self._stock -= self.limited
        return True

    def take_address(self) -> str:
        """Take an address; "" if none is free."""
        return self._addresses.take()

    # --- what happens ---

    def _fire(self, due: list[PodLife]) -> None:
        for pod in due:
            self._advance(pod)

    def _advance(self, pod: PodLife) -> bool:
        """Play what is due of one pod and tell it; whether there was anything."""
        played = pod.advance(self.now(), self)
        if played or pod.gone:
            self._tell(pod)
        else:
            self._timers.set(pod)
        return played or pod.gone

    def _tell(self, pod: PodLife) -> None:
        identity = pod.identity
        gone = pod.gone
        if gone:
            self._remove(pod)
        if feeds := self._feeds_of(_owner(identity)):
            seen = pod.observation()
            sighting = Gone(identity, seen) if gone else seen
            for feed in feeds:
                feed.put(sighting)
        self._timers.set(pod)
        for listener in tuple(pod.listeners or ()):
            listener()

    def _feeds_of(self, owner: Owner) -> list[Feed]:
        return [feed for reference in tuple(self._feeds.get(owner, ())) if (feed := reference())]

    def _remove(self, pod: PodLife) -> None:
        del self._pods[pod.identity.uid, pod.identity.attempt]
        if pod.address and not pod.has_given_address:
            self._addresses.give_back(pod.address)
        self._stock += self.limited and pod.stocked


def _owner(identity: Identity) -> Owner:
    return (identity.cluster, identity.node)
