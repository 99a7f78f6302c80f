"""One line of what a process may do at the apiserver.

In: nothing. Out: a value; each process has a table of them, which tests compare with its source and its roles.
"""

from msgspec import Struct

from overspill.kube.resources import Resource

__all__ = ["Permission"]


class Permission(Struct, frozen=True):
    """Verbs on one resource, in every namespace or in one.

    Attributes:
        subresource: such as `status`, or "".
        namespace: where alone it is needed; "" for everywhere and for resources without namespace.
        names: the objects that alone are needed; none for all.
        why: what stops working without it.
    """

    resource: Resource
    verbs: tuple[str, ...]
    why: str
    subresource: str = ""
    namespace: str = ""
    names: tuple[str, ...] = ()
