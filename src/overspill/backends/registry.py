"""Backends by name: ours and those that other packages bring by the entry point `overspill.backends`."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from overspill.backends.base import Backend
from overspill.errors import Misconfigured

__all__ = ["BackendFactory", "backend_factory", "backend_names"]

GROUP = "overspill.backends"


class BackendFactory(Protocol):
    """What an entry point names, usually the backend's class.

    `options` are the settings below `backend.<name>` of the agent; an unknown one raises `Misconfigured`.
    """

    def __call__(self, *, cluster: str, node: str, options: Mapping[str, Any]) -> Backend:
        """Make the backend of one virtual node."""


def backend_names() -> list[str]:
    """Names of all installed backends, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def backend_factory(name: str) -> BackendFactory:
    """The factory of a backend.

    Raises:
        Misconfigured: there is none of this name, or it cannot be loaded.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise Misconfigured(f"unknown backend {name!r}: choose one of {', '.join(backend_names())}")
    try:
        factory: BackendFactory = found[0].load()
    except ImportError as error:
        raise Misconfigured(f"backend {name!r} cannot be loaded: {error}") from error
    return factory
