"""Whose a container group is: the decision, group by group.

In: one look at backend and apiserver. Out: a state for each group, and what speaks against believing the look. Pure.
Invariant: a group whose pod exists is never an orphan; of a pod's two groups one is a duplicate only beside the one
that the pod itself names, and only if that one lives.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

from msgspec import Struct

from overspill.backends.base import ContainerGroup

__all__ = ["UNWANTED", "Look", "Owner", "Sorted", "State", "costs", "counts", "doubts", "sort"]


class State(StrEnum):
    """What a group is to its cluster."""

    OWNED = "Owned"  # its pod exists, and so does its pod's agent
    ADOPTABLE = (
        "Adoptable"  # its pod exists, its agent does not: whoever becomes that node next takes it over
    )
    TERMINATING = "Terminating"  # its pod is gone, and its end was asked for
    ORPHAN = "Orphan"  # its pod is gone
    DUPLICATE = "Duplicate"  # its pod names another group


UNWANTED = frozenset({State.ORPHAN, State.DUPLICATE})
# So many orphans are believed however many groups there are; more only if they are not most of them.
FEW, MOST = 10, 0.5


class Owner(Struct, frozen=True):
    """A pod, as far as it matters here; `instance` is the group that its agent wrote on it, or ""."""

    uid: str
    namespace: str
    name: str
    instance: str = ""


class Look(Struct, frozen=True, kw_only=True):
    """One look: the groups first and the pods after them, so that no group can be newer than its pod is known.

    Attributes:
        owners: every pod of the cluster, by uid.
        agents: the nodes whose agent is there.
        foreign: groups of the account that are not this cluster's.
        version: of the list of pods.
        leaving: since when nodes are being decommissioned, seconds since 1970.
    """

    groups: Sequence[ContainerGroup]
    owners: Mapping[str, Owner]
    agents: frozenset[str]
    foreign: int
    version: str = ""
    leaving: Sequence[float] = ()


class Sorted(Struct, frozen=True):
    """A group, what it is, and why in a few words."""

    group: ContainerGroup
    state: State
    why: str


def sort(look: Look) -> list[Sorted]:
    """The state of each group."""
    by_uid: defaultdict[str, list[ContainerGroup]] = defaultdict(list)
    for group in look.groups:
        by_uid[group.identity.uid].append(group)
    return [_sorted(group, by_uid[group.identity.uid], look) for group in look.groups]


def _sorted(group: ContainerGroup, siblings: Sequence[ContainerGroup], look: Look) -> Sorted:
    identity = group.identity
    owner = look.owners.get(identity.uid)
    if owner is None:
        gone = f"pod {identity.namespace}/{identity.name} ({identity.uid}) does not exist"
        return Sorted(group, State.TERMINATING if group.terminating else State.ORPHAN, gone)
    agent = identity.node in look.agents
    if not group.terminating and _doubled(group, owner, siblings, agent=agent):
        return Sorted(group, State.DUPLICATE, f"its pod runs as {owner.instance}")
    if not agent:
        return Sorted(group, State.ADOPTABLE, f"node {identity.node} has no agent")
    return Sorted(group, State.OWNED, "")


def _doubled(group: ContainerGroup, owner: Owner, siblings: Sequence[ContainerGroup], *, agent: bool) -> bool:
    """Without an agent only if it is the younger one: a new agent would keep the older."""
    named = next((each for each in siblings if each.id == owner.instance), None)
    if named is None or named is group or named.terminating or named.ended:
        return False
    if group.identity.attempt > named.identity.attempt:
        return False
    return agent or group.created_at > named.created_at


def doubts(look: Look, found: Iterable[Sorted]) -> str:
    """Why a look that succeeded is not to be acted upon; "" if nothing speaks against it."""
    if look.groups and not look.owners:
        return "the apiserver has no pod at all"
    orphans = sum(each.state is State.ORPHAN for each in found)
    if orphans > max(FEW, len(look.groups) * MOST):
        return f"{orphans} of {len(look.groups)} container groups have no pod"
    return ""


def counts(found: Iterable[Sorted]) -> dict[State, int]:
    """How many groups there are of each state, none left out."""
    counted = Counter(each.state for each in found)
    return {state: counted[state] for state in State}


def costs(found: Iterable[Sorted]) -> dict[str, Decimal]:
    """Price per second by currency, of those groups that are unwanted and whose price is known."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for each in found:
        if each.state in UNWANTED and each.group.price:
            sums[each.group.currency] += each.group.price
    return dict(sums)
