"""Resizing containers in place: what a run has, what it should have, and how it comes by it.

In: a container, its run, what is seen. Out: what to do about it. Pure. Invariant: what a run was given last is
read from its label or its marks, never guessed, so that an agent that was killed half-way goes on.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/, KEP-1287.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import structs

from overspill.backends.podman.seen import Run, Seen, Trouble
from overspill.model.work import Container, Resources, WorkSpec

__all__ = ["resize_trouble", "resized_by", "resources_of", "trouble_key", "with_resources"]


def resources_of(run: Run, seen: Seen) -> Resources:
    """What a run has."""
    return seen.marks_of(run).resources or run.resources


def resized_by(container: Container, run: Run, seen: Seen) -> Literal["", "update", "restart"]:
    """How a running container gets what it should have; "" if it has it, or is being stopped."""
    has, wanted = resources_of(run, seen), container.resources
    if has == wanted or seen.marks_of(run).doomed:
        return ""
    changed = {
        "cpu": (has.cpu_request, has.cpu_limit) != (wanted.cpu_request, wanted.cpu_limit),
        "memory": (has.memory_request, has.memory_limit) != (wanted.memory_request, wanted.memory_limit),
    }
    return "restart" if any(changed[name] for name in container.restart_on_resize) else "update"


def trouble_key(container: str) -> str:
    """Under which a failed resize is among a pod's troubles."""
    return f"{container} resize"


def resize_trouble(container: Container, seen: Seen) -> Trouble | None:
    """Why a resize has not been done yet."""
    return seen.troubles.get(trouble_key(container.name))


def with_resources(work: WorkSpec, resources: Mapping[str, Resources]) -> WorkSpec:
    """The work with other requests and limits of some containers."""

    def resized(containers: tuple[Container, ...]) -> tuple[Container, ...]:
        return tuple(
            structs.replace(each, resources=resources.get(each.name, each.resources)) for each in containers
        )

    return structs.replace(
        work, containers=resized(work.containers), init_containers=resized(work.init_containers)
    )
