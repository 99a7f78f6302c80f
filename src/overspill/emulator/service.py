"""What the actions of the API work with, and how they answer.

In: the parameters of one call. Out: the answer's fields, without the RequestId.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from overspill.emulator.cloud import Cloud
from overspill.emulator.engine import Engine
from overspill.emulator.streams import Execs
from overspill.emulator.usage import History
from overspill.emulator.wire import Tree

__all__ = ["Answer", "Handler", "Service", "Zones"]

Answer = dict[str, Any]


class Zones(Struct, frozen=True):
    """The region's zones, and where its API is served."""

    names: tuple[str, ...]
    endpoint: str


class Service(Struct, frozen=True):
    """One region's parts. `websocket` begins the URLs of commands: `ws://HOST:PORT`."""

    cloud: Cloud
    engine: Engine
    history: History
    execs: Execs
    zones: Zones
    websocket: str


Handler = Callable[[Service, Tree], Awaitable[Answer]]
