"""What the agent's libraries would import for others, and an agent never uses, kept out of its memory.

In: names of modules, while the libraries are imported. Out: nothing; whoever imports one of them later
gets it. Invariant: the libraries are as they are without it, but for what stands on these modules.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["STOOD_IN", "WITHOUT", "left_out"]

# Libraries do without: structlog has tracebacks in colours by rich, msgspec takes typing's words instead.
WITHOUT = ("rich", "typing_extensions")
# prometheus_client has servers and a push client that stand on these; an agent answers /metrics by its own.
STOOD_IN = ("http.server", "socketserver", "urllib.error", "urllib.request", "wsgiref.simple_server")


class _StandIn(ModuleType):
    """A module of empty classes, whatever they are called: enough to be derived from."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def left_out() -> Iterator[None]:
    """Import libraries in here; what was imported before stays."""
    missing = [name for name in (*WITHOUT, *STOOD_IN) if name not in sys.modules]
    for name in missing:
        sys.modules[name] = _StandIn(name) if name in STOOD_IN else None  # type: ignore[assignment]  # None: not there
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
