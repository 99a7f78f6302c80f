"""Backends by name: ours and those that other packages bring by the entry point `overspill.backends`.

In: a name. Out: where its factory is, or the factory. Invariant: to find one needs the metadata of every
installed package, to load one does not; an agent that was told where its backend is never reads them.
"""

import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from overspill.backends.base import Backend, Capabilities, Inventoried, Inventory
from overspill.errors import Misconfigured, Unsupported

__all__ = [
    "BackendFactory",
    "backend_factory",
    "backend_names",
    "backend_target",
    "inventory_of",
    "load_factory",
]

GROUP = "overspill.backends"


class BackendFactory(Protocol):
    """What an entry point names, usually the backend's class.

    `options` are the settings below `backend.<name>` of the agent; an unknown one raises `Misconfigured`.
    `capabilities` is what every backend that it makes can do.
    """

    capabilities: Capabilities

    def __call__(self, *, cluster: str, node: str, options: Mapping[str, Any]) -> Backend:
        """Make the backend of one virtual node."""


def backend_names() -> list[str]:
    """Names of all installed backends, sorted."""
    return sorted(_targets())


def backend_target(name: str) -> str:
    """Where a backend's factory is, as `module:attribute`.

    Raises:
        Misconfigured: there is none of this name.
    """
    target = _targets().get(name)
    if target is None:
        raise Misconfigured(f"unknown backend {name!r}: choose one of {', '.join(backend_names())}")
    return target


def load_factory(target: str) -> BackendFactory:
    """The factory at `module:attribute`.

    Raises:
        Misconfigured: it cannot be loaded.
    """
    try:
        return cast("BackendFactory", pkgutil.resolve_name(target))
    except (ImportError, AttributeError) as error:
        raise Misconfigured(f"backend {target} cannot be loaded: {error}") from error


def backend_factory(name: str) -> BackendFactory:
    """The factory of a backend.

    Raises:
        Misconfigured: there is none of this name, or it cannot be loaded.
    """
    return load_factory(backend_target(name))


def inventory_of(factory: BackendFactory, *, cluster: str, options: Mapping[str, Any]) -> Inventory:
    """A backend's view of a whole cluster.

    Raises:
        Misconfigured: an option is unknown or wrong, or credentials are.
        Unsupported: this backend has none, and why.
    """
    if not isinstance(factory, Inventoried):
        raise Unsupported(
            "this backend does not list the groups of a whole cluster: its orphans are not seen"
        )
    return factory.inventory(cluster=cluster, options=options)


def _targets() -> dict[str, str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 1 MB that an agent need not carry

    return {point.name: point.value for point in entry_points(group=GROUP)}
