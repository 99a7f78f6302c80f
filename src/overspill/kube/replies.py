"""What an apiserver's refusal means for the caller.

In: HTTP status and metav1.Status. Out: an error of `errors.py`. Invariant: pure; messages name the
request and keep the apiserver's own words.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ and apimachinery's api/errors.
"""

import re

import msgspec
from msgspec import Struct

from overspill.errors import (
    Conflict,
    Expired,
    Misconfigured,
    NotFound,
    OverspillError,
    Rejected,
    Retry,
    Throttled,
    Unsettled,
)

__all__ = ["Status", "error_of", "status_error"]

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# How every authorizer's refusal reads (apiserver, handlers/responsewriters/errors.go); admission's does not.
UNAUTHORIZED = re.compile(
    r'cannot (?P<verb>\S+) (?:resource|path) "(?P<resource>[^"]+)"(?: in API group "(?P<group>[^"]*)")?'
    r'(?:.* in the namespace "(?P<namespace>[^"]+)")?'
)
# An apiserver that has just started knows bindings before the roles that they name; a little earlier it knows
# neither, and then only time tells its refusal from another one.
UNREAD_ROLES = re.compile(r"RBAC: .*role\S* \"[^\"]+\" not found")
# Admission plugins of one that has just started say so until they have read their configurations
# (apiserver, pkg/admission/plugin/webhook/generic and plugin/policy/generic).
UNREADY = "not yet ready to handle request"


class _Cause(Struct):
    reason: str = ""
    field: str = ""


class Details(Struct, rename="camel"):
    """Details of a Status."""

    retry_after_seconds: float = 0
    causes: tuple[_Cause, ...] = ()


class Status(Struct):
    """metav1.Status: the apiserver's answer when it does not give the object."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


def error_of(code: int, content: bytes, *, method: str, path: str, retry_after: str = "") -> OverspillError:
    """The error for a reply that is not of 200 to 299."""
    try:
        status = msgspec.json.decode(content, type=Status)
    except msgspec.DecodeError:  # not the apiserver's: a proxy's, or a server that is no apiserver
        status = Status(message=content[:300].decode(errors="replace").strip())
    status.code = code
    return status_error(
        status,
        what=f"{VERBS.get(method, method.lower())} {path}",
        retry_after=_seconds(retry_after),
    )


def status_error(status: Status, *, what: str, retry_after: float | None = None) -> OverspillError:
    """The error for a Status; also for one that comes inside a watch."""
    text = f"{what}: {status.message or status.reason or status.code}"
    if retry_after is None and status.details and status.details.retry_after_seconds:
        retry_after = status.details.retry_after_seconds
    causes = status.details.causes if status.details else ()
    if any(cause.reason == "ResourceVersionTooLarge" for cause in causes):
        return Expired(text)  # of the future: etcd was restored, so that this version names nothing here
    if any(cause.field == "metadata.uid" for cause in causes):
        return Conflict(text)  # 422 by its code: a patch with the uid of another object of this name
    if status.code == 401:
        return Misconfigured(f"{text}: the apiserver does not accept these credentials")
    if status.code == 403:
        return _forbidden(status.message, text)
    if status.code == 429 or (status.code == 503 and retry_after is not None):
        return Throttled(text, retry_after=retry_after or 0.0)
    if status.code >= 500 or status.code == 408:
        return Retry(text)
    return {404: NotFound, 409: Conflict, 410: Expired}.get(status.code, Rejected)(text)


def _forbidden(message: str, text: str) -> OverspillError:
    """A person can grant a verb; a refusal of admission or a quota is about this one object, if it was ready to tell."""
    found = UNAUTHORIZED.search(message)
    if found is None:
        return Retry(text) if message.endswith(UNREADY) else Rejected(text)
    group = f' of API group "{found["group"]}"' if found["group"] else ""
    scope = f' in namespace "{found["namespace"]}"' if found["namespace"] else ""
    told = f'{text}; grant verb "{found["verb"]}" on "{found["resource"]}"{group}{scope} by RBAC'
    return Retry(told) if UNREAD_ROLES.search(message) else Unsettled(told)


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None
