"""Events that a change of a pod deserves, in the kubelet's words.

In: two consecutive observations. Out: what to tell. Invariant: pure; the same
change is told once, and nothing is told about what did not change.
"""

from collections.abc import Iterator

from msgspec import Struct

from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting

__all__ = ["Told", "changes"]

WARNINGS = {
    "ErrImagePull": "Failed",
    "ErrImageNeverPull": "ErrImageNeverPull",
    "InvalidImageName": "InspectFailed",
    "ImagePullBackOff": "BackOff",
    "CrashLoopBackOff": "BackOff",
    "CreateContainerError": "Failed",
    "CreateContainerConfigError": "Failed",
    "RunContainerError": "Failed",
}


# Why a pod as a whole waits, beside what its containers say.
POD_WARNINGS = {"FailedCreatePodSandBox"}


class Told(Struct, frozen=True):
    """One Event; `field_path` names the container it is about."""

    warning: bool
    reason: str
    message: str
    field_path: str = ""


def changes(before: Observation | None, after: Observation) -> Iterator[Told]:
    """The Events between two observations of a pod; `before` is None for the first one."""
    for field, now, earlier in (
        ("initContainers", after.init_containers, before.init_containers if before else ()),
        ("containers", after.containers, before.containers if before else ()),
        ("ephemeralContainers", after.ephemeral_containers, before.ephemeral_containers if before else ()),
    ):
        known = {container.name: container for container in earlier}
        for container in now:
            yield from _of_container(
                known.get(container.name), container, f"spec.{field}{{{container.name}}}"
            )
    if after.failed and not (before and before.failed):
        # Where there is no reason for the pod as a whole, its containers have said it.
        if after.reason or after.message:
            yield Told(warning=True, reason=after.reason or "Failed", message=after.message)
    elif _waits_for_another_reason(before, after):
        yield Told(warning=True, reason=after.reason, message=after.message)


def _waits_for_another_reason(before: Observation | None, after: Observation) -> bool:
    """A lack of room tells each time in other words how large it is: its reason counts."""
    if after.provisioned is False:
        return not (before and before.provisioned is False and before.reason == after.reason)
    return after.reason in POD_WARNINGS and not (before and before.message == after.message)


def _of_container(
    before: ContainerObservation | None, after: ContainerObservation, path: str
) -> Iterator[Told]:
    old, new = (before.state if before else None), after.state
    if old == new:
        return
    if isinstance(new, Running):
        yield Told(warning=False, reason="Started", message="Container started", field_path=path)
    elif isinstance(new, Waiting) and new.reason in WARNINGS:
        if not (isinstance(old, Waiting) and old.reason == new.reason):
            yield Told(
                warning=True, reason=WARNINGS[new.reason], message=new.message or new.reason, field_path=path
            )
    elif isinstance(new, Terminated) and new.reason == "OOMKilled":
        yield Told(
            warning=True,
            reason="OOMKilling",
            message=f"Container {after.name} ran out of memory",
            field_path=path,
        )
