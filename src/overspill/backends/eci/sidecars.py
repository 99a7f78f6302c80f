"""Sidecars (KEP-753) in ECI's words: containers beside the others, with switches in their environment.

In: a work spec. Out: its sidecars, and the switches of each. Pure. Invariant: sidecars start in their
order and before the other containers, end in the reverse order and after them, and keep no pod alive;
a switch that the user set stays.
Source: ECI's pages on the order of containers and on types of containers (2024).
"""

from msgspec import structs

from overspill.model.work import Container, EnvVar, WorkSpec

__all__ = ["TYPE", "in_eci_words", "in_order", "initial", "sidecars"]

TYPE = "ECI_CONTAINER_TYPE"
IGNORE_EXIT_CODE = "ECI_CONTAINER_IGNORE_EXIT_CODE"
LAUNCH_PRIORITY = "ECI_CONTAINER_LAUNCH_PRIORITY"
EXIT_PRIORITY = "ECI_CONTAINER_EXIT_PRIORITY"
# Of what starts or ends, the higher goes first; other containers have 0.
HIGHEST = 1000


def sidecars(work: WorkSpec) -> tuple[Container, ...]:
    """The init containers that run on beside the others."""
    return tuple(each for each in work.init_containers if each.restart_policy == "Always")


def initial(work: WorkSpec) -> tuple[Container, ...]:
    """The init containers that come to an end before the others start."""
    return tuple(each for each in work.init_containers if each.restart_policy != "Always")


def in_order(work: WorkSpec) -> tuple[Container, ...]:
    """All containers in the order that ECI has them: the pod's own, its sidecars, its other init containers."""
    return (*work.containers, *sidecars(work), *initial(work))


def in_eci_words(work: WorkSpec) -> list[Container]:
    """The sidecars with their switches."""
    every = sidecars(work)
    return [_switched(each, index, len(every)) for index, each in enumerate(every)]


def _switched(container: Container, index: int, count: int) -> Container:
    switches = {
        TYPE: "sidecar",
        IGNORE_EXIT_CODE: "true",
        LAUNCH_PRIORITY: str(HIGHEST - index),
        EXIT_PRIORITY: str(index - count),
    }
    set_by_user = {var.name for var in container.env}
    more = [EnvVar(name, value) for name, value in switches.items() if name not in set_by_user]
    return structs.replace(container, env=(*container.env, *more))
