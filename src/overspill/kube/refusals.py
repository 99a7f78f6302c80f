"""Whether a refusal is to be believed: an apiserver that has just started refuses what RBAC allows until it has read the roles.

In: every answer to one kind of request. Out: a verdict. Invariant: the time counts from the first of the refusals in a
row, however long the apiserver was away before them; what was never allowed is refused at once.
"""

__all__ = ["Refusals"]

GRACE = 60.0


class Refusals:
    """Those of one kind of request."""

    def __init__(self) -> None:
        self._allowed = False
        self._since: float | None = None

    def allow(self) -> None:
        """It was allowed."""
        self._allowed = True
        self._since = None

    def believe(self, now: float) -> bool:
        """It was refused: whether for good."""
        if self._since is None:
            self._since = now
        return not self._allowed or now - self._since >= GRACE
