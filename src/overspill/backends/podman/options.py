"""Settings of the Podman backend.

In: the agent's backend options. Out: one frozen value. Invariant: an unknown or wrong option is an error that names it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from overspill.errors import Misconfigured

__all__ = ["Options", "read_options"]


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings below `backend.podman`.

    Attributes:
        socket: path of the socket of `podman system service`.
        network: the Podman network that gives the pods their addresses; it has to exist.
        place_by_annotation: take a pod's network and address from its annotations. For whoever manages both
            itself, as the ECI emulator does; never for an agent, whose pods' annotations are their users'.
        data_dir: where the pods' records, volumes and logs are; Podman has to see it under the same path.
    """

    socket: str = "/run/podman/podman.sock"
    network: str = "podman"
    place_by_annotation: bool = False
    data_dir: str = "/var/lib/overspill/podman"


def read_options(options: Mapping[str, Any]) -> Options:
    """The options, checked.

    Raises:
        Misconfigured: one is unknown or wrong.
    """
    try:
        return msgspec.convert(options, Options)
    except msgspec.ValidationError as error:
        raise Misconfigured(
            f"backend podman: {error}; it knows {', '.join(Options.__struct_fields__)}"
        ) from error
