"""Who asks, and what a request needs to be allowed: the kubelet's rules, without I/O.

In: a verified certificate's fields; method and path. Out: a `User`; the accesses of which one must be
granted. Invariant: every path needs one; what is not known by name needs `nodes/proxy`, which is as
good as root in the node's pods.
Sources: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/ and
pkg/kubelet/server/auth.go (KEP-2862 for the finer subresources).
"""

import ssl
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

__all__ = ["Access", "User", "access", "bearer_token", "forbidden", "user_of_certificate"]

PROXY = "proxy"
VERBS = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
# First path segment -> subresources of `nodes`, the finer one first.
SUBRESOURCES = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "checkpoint": ("checkpoint",),
    "pods": ("pods", PROXY),
    "runningpods": ("pods", PROXY),
    "healthz": ("healthz", PROXY),
    "configz": ("configz", PROXY),
    "statusz": ("statusz", PROXY),
}


class User(Struct, frozen=True):
    """Who asks, as the cluster knows them; `extra` is what an authenticator added."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Access(Struct, frozen=True):
    """What a request does: one verb, on any one of these subresources of the node."""

    verb: str
    subresources: tuple[str, ...]


def access(method: str, path: str) -> Access:
    """What a request must be allowed to do."""
    first = path.split("/", 2)[1]
    return Access(VERBS.get(method, method.lower()), SUBRESOURCES.get(first, (PROXY,)))


def forbidden(user: User, wanted: Access) -> str:
    """The refusal in the kubelet's words."""
    return (
        f"Forbidden (user={user.name}, verb={wanted.verb}, resource=nodes, "
        f"subresource(s)=[{' '.join(wanted.subresources)}])\n"
    )


def user_of_certificate(certificate: Mapping[str, Any] | None, *, now: float) -> User | None:
    """The user of a verified client certificate, as `ssl.SSLSocket.getpeercert` describes it.

    None without one, without a name in it, and after its end: a connection may outlive its certificate.
    """
    if not certificate or ssl.cert_time_to_seconds(certificate["notAfter"]) <= now:
        return None
    names = [pair for relative in certificate["subject"] for pair in relative]
    common = [value for name, value in names if name == "commonName"]
    groups = tuple(value for name, value in names if name == "organizationName")
    return User(common[-1], groups) if common and common[-1] else None


def bearer_token(authorization: str) -> str:
    """The token of an Authorization header, or ""."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and " " not in token else ""
