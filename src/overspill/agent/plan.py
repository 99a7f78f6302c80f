"""What to do about one pod, decided from what is wanted and what is there.

In: the pod as the apiserver has it, the observation of it, what this process
remembers. Out: one `Action`. Invariant: pure, and right whatever was missed
before: the same inputs after a restart give the same action.
"""

import msgspec
from msgspec import Struct

from overspill.model.observation import Observation, Running, Terminated
from overspill.model.pods import Container, Pod, PodSpec
from overspill.model.podstatus import phase_of

__all__ = [
    "Action",
    "Create",
    "Delete",
    "Fail",
    "Finalize",
    "Forget",
    "Memory",
    "Nothing",
    "Recall",
    "Report",
    "Resize",
    "plan",
]

# A pod that vanished from the apiserver was deleted by force; what still runs
# gets the kubelet's minimum (minimumGracePeriodInSeconds).
FORCED_GRACE = 2


class Resize(Struct, frozen=True):
    """How far one pod's resources follow its spec.

    Attributes:
        generation: of the spec whose resources were dealt with; -1 for none.
        given: what the backend was given last, as a hash; None: not known.
        reason: why what is asked for now is not given, `Infeasible` or `Deferred`; "" if it is.
        since: since when, seconds since 1970.
    """

    generation: int = -1
    given: int | None = None
    reason: str = ""
    message: str = ""
    since: float = 0.0


UNASKED = Resize()


class Memory(Struct):
    """What one process remembers of a pod; all of it may be lost at any time.

    Attributes:
        attempt: highest attempt seen or made; -1 before any.
        asked_grace: grace in seconds of the delete last asked of the backend.
        held: generation of the spec that was refused for good, and so is not given to the backend again.
        first_seen: when this process first dealt with it, seconds since 1970.
        waits: how often it was put off in a row because something it refers to is missing.
        deadline: seconds that it had when this process gave it to the backend; infinity for none, 0 if it did not.
        last: how it stood when the backend let it go.
        exit_codes: by container, of those that had ended as the apiserver has it; None: it was not asked.
        resize: how far the agent is with the pod's requests and limits.
        images: generation of the spec whose images were dealt with; -1 for none.
        images_kept: why the pod goes on with other images than it asks for; "" if it does not.
        removed: the apiserver was told to remove it; its DELETED event is on the way.
        mark: of the status that the apiserver had of it last; None: not known.
    """

    attempt: int = -1
    asked_grace: int | None = None
    held: int = -1
    first_seen: float = 0.0
    waits: int = 0
    deadline: float = 0.0
    last: Observation | None = None
    exit_codes: dict[str, int] | None = None
    resize: Resize = UNASKED
    images: int = -1
    images_kept: str = ""
    removed: bool = False
    mark: int | None = None


class Nothing(Struct, frozen=True):
    """All is as it should be, or somebody else has to move first."""


class Create(Struct, frozen=True):
    """Give the pod to the backend."""

    attempt: int


class Recall(Struct, frozen=True):
    """Find out from its status which containers had ended: it had begun, and this process has never seen it."""


class Delete(Struct, frozen=True):
    """Ask the backend to end it."""

    grace_seconds: int


class Finalize(Struct, frozen=True):
    """Nothing is left of it: remove it from the apiserver."""


class Fail(Struct, frozen=True):
    """It is not at the backend, and must not run (again): say so."""

    reason: str
    message: str


class Report(Struct, frozen=True):
    """It ended by itself before the backend let it go: say how, if that is not said yet."""


class Forget(Struct, frozen=True):
    """Neither side knows it any more."""


Action = Nothing | Create | Recall | Delete | Finalize | Fail | Report | Forget


def plan(
    pod: Pod | None, seen: Observation | None, memory: Memory, *, exceeded: Fail | None = None
) -> Action:
    """The next step for one pod; `exceeded` is how it fails because its deadline has passed."""
    if pod is None:
        return _delete(seen, FORCED_GRACE, memory) if seen else Forget()
    if pod.metadata.deletion_timestamp is not None:
        return _end(pod, seen, memory)
    if pod.ended:
        # Somebody declared it ended (eviction, a lost node): what still runs must stop.
        return _delete(seen, FORCED_GRACE, memory) if seen and _runs_on(seen) else Nothing()
    if exceeded is not None and seen is None:
        return exceeded
    if exceeded is not None and seen is not None and not _is_over(seen):
        return _delete(seen, pod.decoded_spec().termination_grace_period_seconds, memory)
    if seen is not None or memory.held == pod.metadata.generation:
        return Nothing()
    return _start(pod, memory)


def _start(pod: Pod, memory: Memory) -> Action:
    last, runs = memory.last, pod.status.phase == "Running"
    if last is not None and last.failed:  # the backend has given it up
        return _lost(memory, last.reason, last.message)
    if not (runs or pod.status.start_time or last or memory.exit_codes):
        return Create(memory.attempt + 1)
    try:
        spec = pod.decoded_spec()
    except msgspec.ValidationError:
        return Create(memory.attempt + 1)  # it is refused, and told why
    if spec.restart_policy == "Never" and (runs or _is_told_to_have_ended(last)):
        return _lost(memory, *_gone("restartPolicy is Never"))
    if spec.restart_policy != "Always" and last is None and memory.exit_codes is None:
        return Recall()
    if _has_ended_for_good(spec, memory):
        return _lost(memory, *_gone("one that had ended is not to run again"))
    return Create(memory.attempt + 1)


def _gone(why: str) -> tuple[str, str]:
    return "ContainersLost", f"its containers are gone from the backend, and {why}"


def _lost(memory: Memory, reason: str, message: str) -> Action:
    return Report() if _is_told_to_have_ended(memory.last) else Fail(reason, message)


def _is_told_to_have_ended(last: Observation | None) -> bool:
    return last is not None and phase_of(last) in {"Succeeded", "Failed"}


def _has_ended_for_good(spec: PodSpec, memory: Memory) -> bool:
    """Whether a container has ended that is not to run again: the apiserver would take no status in which it does.

    Init containers are: all run again in a new attempt, and statuses are taken from when they have completed.
    """
    codes = memory.exit_codes if memory.last is None else _exit_codes(memory.last)
    if not codes:
        return False
    return any(
        each.name in codes and not _runs_again(each, spec.restart_policy, codes[each.name])
        for each in spec.containers
    )


def _exit_codes(seen: Observation) -> dict[str, int]:
    return {each.name: each.state.exit_code for each in seen.containers if isinstance(each.state, Terminated)}


def _runs_again(container: Container, policy: str, exit_code: int) -> bool:
    """Whether a container is started again after this end (k8s.io/kubernetes pkg/api/v1/pod, ContainerShouldRestart)."""
    rules = [rule.exit_codes for rule in container.restart_policy_rules]
    if any((exit_code in rule.values) == (rule.operator == "In") for rule in rules):
        return True
    policy = container.restart_policy or policy
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def _end(pod: Pod, seen: Observation | None, memory: Memory) -> Action:
    grace = pod.metadata.deletion_grace_period_seconds or 0
    if seen is not None:
        return _delete(seen, grace, memory)
    if memory.removed or (pod.metadata.finalizers and grace == 0 and pod.ended):
        return Nothing()  # with finalizers the apiserver removes it once they are gone
    return Finalize()


def _delete(seen: Observation, grace: int, memory: Memory) -> Action:
    asked = memory.asked_grace
    if seen.deleting and asked is not None and grace >= asked:
        return Nothing()
    return Delete(grace)


def _runs_on(seen: Observation) -> bool:
    """Whether something of it runs, or will again, and the backend is not about to stop it."""
    return not seen.ending and any(
        isinstance(c.state, Running) or c.will_restart for c in (*seen.init_containers, *seen.containers)
    )


def _is_over(seen: Observation) -> bool:
    """Whether the backend has ended it, or is about to; its logs stay then."""
    return seen.ending or _is_told_to_have_ended(seen)
