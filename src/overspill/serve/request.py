"""The head of one HTTP request to the node's kubelet API.

In: what a client sent. Out: a value that routes, authorization and stream upgrades read. Invariant:
`path` is decoded once and holds no query; header names are lower case.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

__all__ = ["Request"]


class Request(Struct, frozen=True):
    """One request's method, path, query and headers; the body, if any, is still on the connection.

    Attributes:
        method: in capitals.
        path: percent-decoded, begins with "/".
        query: every value of each parameter, in the order sent, decoded.
        headers: every value of each header, in the order sent, by lower-case name.
    """

    method: str
    path: str
    query: Mapping[str, Sequence[str]] = {}
    headers: Mapping[str, Sequence[str]] = {}

    def parameter(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return next(iter(self.query.get(name, ())), default)

    def header(self, name: str) -> str:
        """All values of a header, joined by commas as RFC 9110 (5.2) has it; "" if there is none."""
        return ", ".join(self.headers.get(name, ()))
