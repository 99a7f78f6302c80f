"""Every error of overspill, grouped by what its receiver does next.

    OverspillError
    ├── Retry             the same call may work later: connection lost, 5xx, timeout, "cannot tell now"
    │   └── Throttled     … and not before `retry_after` seconds
    ├── NotFound          the thing is not there (which never means that a pod is *gone*)
    ├── Conflict          somebody else was first: exists already, stale version, another uid
    ├── Expired           the resourceVersion is too old to go on from: list again
    ├── Unsupported       a backend cannot do this, and says which fields or verbs: refuse the pod
    ├── Rejected          the request itself is wrong; repeating it cannot help
    └── Misconfigured     a person must act: address, credentials, RBAC, settings, missing programs
        └── Unsettled     … unless it passes by itself soon after a start: roles not read yet, a clock not set yet

Library errors are chained as causes. A message names the thing, the cause and
the next step, and never holds a secret.
"""

from collections.abc import Sequence

__all__ = [
    "Conflict",
    "Expired",
    "Misconfigured",
    "NotFound",
    "OverspillError",
    "Rejected",
    "Retry",
    "Throttled",
    "Unsettled",
    "Unsupported",
]


class OverspillError(Exception):
    """Base of all errors that overspill raises on purpose."""


class Retry(OverspillError):
    """The same call may succeed later; nothing is known about its effect."""


class Throttled(Retry):
    """The other side asked for fewer calls.

    Attributes:
        retry_after: seconds to wait before the next call; 0 when it did not say.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFound(OverspillError):
    """The named thing does not exist where it was asked for."""


class Conflict(OverspillError):
    """Exists already, is newer than what the caller saw, or has another uid."""


class Expired(OverspillError):
    """A resourceVersion or continue token is too old (HTTP 410): list again."""


class Unsupported(OverspillError):
    """What was asked is not something this backend can do.

    Attributes:
        fields: paths or verbs that cannot be honoured, such as `spec.containers[0].livenessProbe`.
    """

    def __init__(self, message: str, *, fields: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class Rejected(OverspillError):
    """The other side refused the request as wrong; the same request will be refused again."""


class Misconfigured(OverspillError):
    """Settings, credentials, permissions or programs are not as they must be; a person has to act."""


class Unsettled(Misconfigured):
    """As above, but an apiserver or a machine that has just started says so as well, for a moment."""
