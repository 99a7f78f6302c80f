"""How container groups are named and tagged, and read back from a listing.

In: an `Identity`. Out: tags, a name, a client token; and the other way round.
Invariant: a client token follows from uid, attempt and variant alone, so that a
create whose reply was lost, sent again, makes nothing new. No tag holds a secret.
Limits: 20 tags, keys of 64 and values of 128 characters; a longer name goes on
under the same key with `.2`.
"""

import re
from collections.abc import Iterable, Mapping

from overspill import names
from overspill.model.work import Identity

__all__ = [
    "FAIL_FAST_TAG",
    "FROM_LOGS_TAG",
    "LONGEST_SIDECARS",
    "MOST_TAGS",
    "client_token",
    "cluster_tags",
    "group_name",
    "identity_of",
    "node_tags",
    "sidecar_tags",
    "sidecars_of",
    "tags",
]

MOST_TAGS = 20
LONGEST_VALUE = 128
LONGEST_NAME = 128
# Of the names of a pod's sidecars together, with a character between two.
LONGEST_SIDECARS = 2 * LONGEST_VALUE
# Set where a pod must fail rather than wait when ECI has no room for it.
FAIL_FAST_TAG = f"{names.DOMAIN}/fail-fast"
# Which containers want the end of their log for a message: their numbers, as ECI counts containers, then init containers.
FROM_LOGS_TAG = f"{names.DOMAIN}/message-from-logs"
# Which containers are the pod's sidecars, for ECI does not tell them from the others.
SIDECARS_TAG = f"{names.DOMAIN}/sidecars"


def tags(identity: Identity, *, more: Mapping[str, str]) -> list[dict[str, str]]:
    """All tags of a group, as the API takes them."""
    own = _split(
        {
            names.CLUSTER_TAG: identity.cluster,
            names.NODE_TAG: identity.node,
            names.NAMESPACE_TAG: identity.namespace,
            names.POD_TAG: identity.name,
            names.UID_TAG: identity.uid,
            names.ATTEMPT_TAG: str(identity.attempt),
        }
    )
    return _listed(dict(more) | own)


def cluster_tags(cluster: str) -> list[dict[str, str]]:
    """The tags by which the groups of all nodes are listed."""
    return _listed(_split({names.CLUSTER_TAG: cluster}))


def node_tags(cluster: str, node: str) -> list[dict[str, str]]:
    """The tags by which one node's groups are listed."""
    return _listed(_split({names.CLUSTER_TAG: cluster, names.NODE_TAG: node}))


def sidecar_tags(sidecars: Iterable[str]) -> dict[str, str]:
    """The tags that name a pod's sidecars; together at most `LONGEST_SIDECARS` characters."""
    every = "/".join(sidecars)
    return _split({SIDECARS_TAG: every}) if every else {}


def sidecars_of(found: Mapping[str, str]) -> list[str]:
    """The names of the sidecars that a group's tags tell of."""
    return [name for name in _joined(found, SIDECARS_TAG).split("/") if name]


def identity_of(found: Mapping[str, str]) -> Identity | None:
    """The identity that a group's tags tell of, or None if it is not ours."""
    attempt = found.get(names.ATTEMPT_TAG, "")
    if not found.get(names.UID_TAG) or not attempt.isdecimal():
        return None
    return Identity(
        cluster=_joined(found, names.CLUSTER_TAG),
        node=_joined(found, names.NODE_TAG),
        namespace=_joined(found, names.NAMESPACE_TAG),
        name=_joined(found, names.POD_TAG),
        uid=found[names.UID_TAG],
        attempt=int(attempt),
    )


def client_token(identity: Identity, *, variant: int) -> str:
    """The idempotency key of a create, at most 64 characters.

    `variant` counts the different requests made for one attempt, each only after ECI has refused the one before.
    """
    return f"{identity.uid}-{identity.attempt}-{variant}"


def group_name(identity: Identity) -> str:
    """`namespace-name` in the characters that ECI allows; names need not be unique."""
    plain = re.sub(r"[^a-z0-9-]", "-", f"{identity.namespace}-{identity.name}".lower())
    return plain[:LONGEST_NAME].strip("-")


def _split(values: Mapping[str, str]) -> dict[str, str]:
    short = {key: value[:LONGEST_VALUE] for key, value in values.items()}
    rest = {f"{key}.2": value[LONGEST_VALUE:] for key, value in values.items() if len(value) > LONGEST_VALUE}
    return short | rest


def _joined(found: Mapping[str, str], key: str) -> str:
    return found.get(key, "") + found.get(f"{key}.2", "")


def _listed(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]
