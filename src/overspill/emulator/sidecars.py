"""Containers that a group's environment calls sidecars, and how an engine that knows such runs them.

In: a request; an engine's observation. Out: its sidecars in the order of their start; the observation as
ECI tells it, which has sidecars among the containers. Pure. Invariant: an order that was asked for and
that the engine would not keep is named by `disordered`.
Source: ECI's pages on types of containers and on their order (2024): when all others have ended for good,
sidecars are ended; of what starts or ends, higher priorities go first; where the containers that go first
have a readiness probe, the others wait until they are ready.
"""

from collections.abc import Iterable

from msgspec import structs

from overspill.emulator.requests import Container
from overspill.model.observation import ContainerObservation, Observation, State, Terminated

__all__ = ["apps", "as_containers", "disordered", "sidecars"]

TYPE = "ECI_CONTAINER_TYPE"
IGNORE_EXIT_CODE = "ECI_CONTAINER_IGNORE_EXIT_CODE"
LAUNCH_PRIORITY = "ECI_CONTAINER_LAUNCH_PRIORITY"
EXIT_PRIORITY = "ECI_CONTAINER_EXIT_PRIORITY"


def sidecars(containers: Iterable[Container]) -> list[Container]:
    """The sidecars, first the one that starts first; none where there would be nothing but sidecars."""
    every = list(containers)
    found = [each for each in every if _is_sidecar(each)]
    return (
        sorted(found, key=lambda each: -_priority(each, LAUNCH_PRIORITY)) if len(found) < len(every) else []
    )


def apps(containers: Iterable[Container]) -> list[Container]:
    """All the others."""
    every = list(containers)
    beside = {each.name for each in sidecars(every)}
    return [each for each in every if each.name not in beside]


def disordered(containers: Iterable[Container]) -> list[str]:
    """The switches by which another order was asked for than sidecars first and ended last, in reverse."""
    every = list(containers)
    beside, others = sidecars(every), apps(every)
    ends = [_priority(each, EXIT_PRIORITY) for each in beside]
    wrong = {
        LAUNCH_PRIORITY: any(_priority(each, LAUNCH_PRIORITY) < 0 for each in beside)
        or any(_priority(each, LAUNCH_PRIORITY) for each in others),
        EXIT_PRIORITY: ends != sorted(ends)
        or any(end > 0 for end in ends)
        or any(_priority(each, EXIT_PRIORITY) for each in others),
    }
    return [name for name, is_wrong in wrong.items() if is_wrong]


def as_containers(seen: Observation, containers: Iterable[Container]) -> Observation:
    """What ECI tells: sidecars stand where the request has them, and exit codes that do not count are 0."""
    every = list(containers)
    found = {each.name: each for each in (*seen.containers, *seen.init_containers)}
    ignoring = {each.name for each in every if _variable(each, IGNORE_EXIT_CODE).lower() == "true"}
    own = tuple(
        _succeeded(found[each.name]) if each.name in ignoring else found[each.name]
        for each in every
        if each.name in found
    )
    initial = tuple(each for each in seen.init_containers if not each.sidecar)
    return structs.replace(seen, containers=own, init_containers=initial)


def _succeeded(container: ContainerObservation) -> ContainerObservation:
    last = container.last_state
    return structs.replace(
        container, state=_well(container.state), last_state=None if last is None else _well(last)
    )


def _well(state: State) -> State:
    if isinstance(state, Terminated) and state.exit_code:
        return structs.replace(state, exit_code=0, reason="Completed", signal=0)
    return state


def _is_sidecar(container: Container) -> bool:
    return _variable(container, TYPE).lower() == "sidecar"


def _priority(container: Container, name: str) -> int:
    """A priority from -1000 to 1000; what is none counts as unset."""
    text = _variable(container, name)
    return int(text) if text.removeprefix("-").isdecimal() else 0


def _variable(container: Container, name: str) -> str:
    return next((var.value for var in container.environment_var if var.key == name), "")
