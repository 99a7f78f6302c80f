"""How running containers are brought to an end: hook, signal, grace, SIGKILL, one after the other.

In: the `WorkSpec` (None where only remains were found), what is seen, since
when and with which grace the end is wanted, the time. Out: `Ends`, what is to
be done now. Pure. Invariant: nobody is killed before he was asked and had at
least two seconds; a sidecar is asked only when all that lean on it have ended.
Sources: k8s.io/kubernetes pkg/kubelet/kuberuntime/{kuberuntime_container,kuberuntime_termination_order}.go;
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

from msgspec import Struct

from overspill.backends.podman.seen import Deletion, Run, Seen
from overspill.backends.podman.turns import all_containers, sidecars
from overspill.model.work import Container, WorkSpec

__all__ = ["MINIMUM_GRACE", "SIGKILL", "Ends", "ends_of", "ends_of_doomed"]

MINIMUM_GRACE = 2.0  # seconds that every container has at least; the kubelet's minimumGracePeriodInSeconds
# Seconds until a process that was started can hear a signal; before, it is lost or hits runc's own init.
SETTLE = 0.25
SIGKILL = 9


class Ends(Struct):
    """What to do now: run these hooks, ask these to stop, kill these; else wait until then."""

    hooks: list[Run]
    stops: list[Run]
    kills: list[Run]
    until: list[float]


class _Term(Struct, frozen=True):
    """One run's end: wanted since `at`, the grace over at `deadline`, its turn to be asked at `turn`."""

    container: Container | None
    at: float
    deadline: float
    turn: float

    @property
    def hooked(self) -> bool:
        """Whether its preStop hook runs first; with no grace it does not."""
        return bool(self.container and self.container.pre_stop and self.deadline > self.at)


def ends_of(work: WorkSpec | None, seen: Seen, deletion: Deletion, now: float) -> Ends:
    """The end of all that runs."""
    ends = Ends([], [], [], [])
    by_name = {container.name: container for container in all_containers(work)}
    order = sidecars(work) if work else ()
    deadline = deletion.at + deletion.grace
    for run in seen.live:
        turn = _turn(run, order, seen, deadline)
        term = _Term(by_name.get(run.container), deletion.at, deadline, turn)
        _add(ends, run, term, seen, now)
    return ends


def ends_of_doomed(work: WorkSpec, seen: Seen, now: float) -> Ends:
    """The end of those that are stopped while their pod goes on."""
    ends = Ends([], [], [], [])
    for container in all_containers(work) if seen.marks else ():
        for run in seen.runs_of(container.name)[:1]:
            marks = seen.marks_of(run)
            if marks.doomed and run.state == "running":
                deadline = marks.doomed_at + _grace(work, container, marks.doomed)
                _add(ends, run, _Term(container, marks.doomed_at, deadline, 0.0), seen, now)
    return ends


def _grace(work: WorkSpec, container: Container, doomed: str) -> float:
    probe = {"Liveness": container.liveness, "Startup": container.startup}.get(doomed)
    own = probe.termination_grace_period_seconds if probe else None
    return float(work.termination_grace_period_seconds if own is None else own)


def _turn(run: Run, order: tuple[str, ...], seen: Seen, deadline: float) -> float:
    """When it is this run's turn to stop: at once, or for a sidecar after the others and the later sidecars."""
    if run.container not in order:
        return 0.0
    earlier = order[: order.index(run.container) + 1]
    others = [other for other in seen.runs if other.container not in earlier]
    return max((_ended(other, deadline) for other in others), default=0.0)


def _ended(run: Run, otherwise: float) -> float:
    return otherwise if run.state == "running" else run.finished_at


def _add(ends: Ends, run: Run, term: _Term, seen: Seen, now: float) -> None:
    """Take one more run into account."""
    sent = seen.signalled.get(run.id)
    hook = seen.marks_of(run).pre_stop
    if term.hooked and hook is None and sent is None and now < term.deadline:
        ends.hooks.append(run)
        return
    hook_over = term.at
    if term.hooked:
        hook_over = term.deadline if hook is None or hook.ended is None else hook.ended
    ask_at = min(term.deadline, max(term.at, hook_over, term.turn))
    asked = seen.asked.get(run.id)
    kill_at = max(term.deadline, (ask_at if asked is None else asked) + MINIMUM_GRACE)
    if now < ask_at:
        ends.until.append(ask_at)
    elif sent is None and (asked is None or now < kill_at):  # however late that is
        settled = run.started_at + SETTLE
        if now < settled:
            ends.until.append(settled)
        else:
            ends.stops.append(run)
    elif now < kill_at:
        ends.until.append(kill_at)
    elif sent != SIGKILL:
        ends.kills.append(run)
