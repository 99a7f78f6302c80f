"""The life of one pod, played by the kubelet's rules.

In: a `WorkSpec`, its `Script`, the time. Out: the `Observation` at that time. Invariant: no clock and
no I/O; what is due is played in the order and at the very times of the script, however late `advance`
comes, so that the same script gives the same life.
Source of the rules: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from overspill.backends.simulated.options import chance
from overspill.backends.simulated.script import Behaviour, Script
from overspill.backoff import backoff
from overspill.model.observation import (
    ContainerObservation,
    Observation,
    Running,
    State,
    Terminated,
    Waiting,
)
from overspill.model.work import Container, Volume, WorkSpec

__all__ = ["ContainerLife", "PodLife", "Room"]

INF = math.inf
MINIMUM_GRACE = 2.0  # seconds; the kubelet's minimumGracePeriodInSeconds
BACKOFF_BASE, BACKOFF_CAP = 10.0, 300.0
GOOD_RUN = 600.0  # after a run of so many seconds the next restart comes at once
PULL_TOLD = 2.0  # seconds for which a failed pull shows as such, then as back-off
ROOM_RETRY = 10.0  # seconds between two looks for stock or an address
SIGKILL = 9


class Room(Protocol):
    """What pods take from the cloud."""

    limited: bool

    def take_stock(self) -> bool:
        """Take room for one pod, if there is any."""

    def take_address(self) -> str:
        """Take an address; "" if none is free."""


@lru_cache(maxsize=256)
def _shared(container: Container) -> Container:
    """One object for equal containers: the pods of a Deployment keep one spec."""
    return container


class ContainerLife:
    """One container of a pod. `due` is when it changes by itself."""

    __slots__ = (
        "backoff",
        "behaviour",
        "due",
        "failed_pulls",
        "init",
        "last_state",
        "restarts",
        "spec",
        "state",
        "stops_at",
    )

    def __init__(self, spec: Container, behaviour: Behaviour, *, init: bool, state: State) -> None:
        self.spec = _shared(spec)
        self.behaviour = behaviour
        self.init = init
        self.state = state
        self.last_state: Terminated | None = None
        self.restarts = 0
        self.backoff = 0.0
        self.due = INF
        self.stops_at = INF
        self.failed_pulls = 0

    @property
    def sidecar(self) -> bool:
        """Whether it is an init container that runs on beside the others."""
        return self.init and self.spec.restart_policy == "Always"

    @property
    def passed(self) -> bool:
        """Whether the next container may start, as far as this init container goes."""
        ran = isinstance(self.state, Running) or self.last_state is not None
        return self.completed or (self.sidecar and ran)

    @property
    def fresh(self) -> bool:
        """Whether its turn has not come yet."""
        return self.state in (CREATING, PREPARING)

    @property
    def completed(self) -> bool:
        """Whether it ended well and for good."""
        return isinstance(self.state, Terminated) and self.state.exit_code == 0


class PodLife:
    """One pod. `due` is when it changes by itself; infinite if never."""

    __slots__ = (
        "_bring_up_at",
        "_deadline_at",
        "_ending",
        "_grace",
        "_inits",
        "_kill_at",
        "_luck",
        "_message",
        "_reason",
        "_script",
        "_tells_room",
        "address",
        "containers",
        "deleting",
        "due",
        "failed",
        "hostname",
        "identity",
        "listeners",
        "lost_replies",
        "restart_policy",
        "scratch",
        "stocked",
        "taken_at",
        "volumes",
    )

    def __init__(self, work: WorkSpec, script: Script, *, seed: int, at: float) -> None:
        self.identity = work.identity
        self.hostname = work.hostname
        self.volumes: Mapping[str, Volume] = work.volumes
        self.restart_policy = work.restart_policy
        self.taken_at = at
        self.address = ""
        self.stocked = False
        self.deleting = False
        self.failed = False
        self.lost_replies = 0
        self.listeners: set[Callable[[], None]] | None = None
        self.scratch: dict[tuple[str, str], bytes] | None = None
        waiting = PREPARING if work.init_containers else CREATING
        self._inits = len(work.init_containers)
        self.containers = (
            *(
                ContainerLife(c, script.of(c, init=c.restart_policy != "Always"), init=True, state=waiting)
                for c in work.init_containers
            ),
            *(ContainerLife(c, script.of(c, init=False), init=False, state=waiting) for c in work.containers),
        )
        self._script = script
        self._luck = (seed, work.identity.uid, work.identity.attempt)
        self._grace = work.termination_grace_period_seconds
        self._ending = False
        self._kill_at = INF
        self._bring_up_at = at
        self._deadline_at = INF if work.active_deadline_seconds is None else at + work.active_deadline_seconds
        self._reason = self._message = ""
        self._tells_room = script.no_stock_seconds > 0
        self.due = at

    # --- what comes in ---

    def advance(self, now: float, room: Room) -> bool:
        """Play all that is due; whether anything was."""
        played = False
        while self.due <= now:
            self._play(self.due, room)
            self._find_due()
            played = True
        return played

    def delete(self, now: float, grace: float) -> None:
        """Ask for its end; asked again, only a sooner one counts."""
        self.deleting = True
        self._end(now, now + max(MINIMUM_GRACE, grace))
        self._find_due()

    @property
    def has_given_address(self) -> bool:
        """Whether its address came with it and is none of the pool's."""
        return bool(self._script.ip)

    @property
    def _sidecars(self) -> list[ContainerLife]:
        return [init for init in self.containers[: self._inits] if init.sidecar]

    @property
    def gone(self) -> bool:
        """Whether nothing is left of it."""
        return self.deleting and not any(isinstance(c.state, Running) for c in self.containers)

    def find(self, container: str) -> ContainerLife | None:
        """A container by its name."""
        return next((c for c in self.containers if c.spec.name == container), None)

    # --- what goes out ---

    def observation(self) -> Observation:
        """The pod as it stands."""
        seen = tuple(map(self._observed, self.containers))
        return Observation(
            identity=self.identity,
            started_at=self.taken_at,
            containers=seen[self._inits :],
            init_containers=seen[: self._inits],
            ips=(self.address,) if self.address else (),
            reason=self._reason,
            message=self._message,
            failed=self.failed,
            ending=self.failed and any(isinstance(c.state, Running) for c in self.containers),
            deleting=self.deleting,
            provisioned=self.stocked if self._tells_room else None,
        )

    def _observed(self, container: ContainerLife) -> ContainerObservation:
        state, spec = container.state, container.spec
        running = isinstance(state, Running)
        ran = running or container.last_state is not None or isinstance(state, Terminated)
        return ContainerObservation(
            name=spec.name,
            state=state,
            image=spec.image,
            image_id=_image_id(spec.image) if ran else "",
            container_id=f"simulated://{self.identity.uid}/{spec.name}/{container.restarts}" if ran else "",
            last_state=container.last_state,
            ready=running,
            started=running,
            restarts=container.restarts,
            will_restart=isinstance(state, Waiting) and container.last_state is not None,
            sidecar=container.sidecar,
        )

    # --- what happens by itself ---

    def _find_due(self) -> None:
        due = min(self._bring_up_at, self._deadline_at)
        for container in self.containers:
            due = min(due, container.due)
        self.due = due

    def _play(self, at: float, room: Room) -> None:
        if self._deadline_at <= at:
            self._fail(
                at, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
            )
        elif self._bring_up_at <= at:
            self._bring_up(at, room)
        else:
            for container in self.containers:
                if container.due <= at:
                    self._turn(container, at)

    def _bring_up(self, at: float, room: Room) -> None:
        if not self.stocked:
            self._tells_room |= room.limited
            open_at = self.taken_at + self._script.no_stock_seconds
            if at < open_at or not room.take_stock():
                self._reason, self._message = "NoStock", "the simulated cloud has no room for this pod"
                self._bring_up_at = open_at if at < open_at else at + ROOM_RETRY
                return
            self.stocked = True
            self._reason = self._message = ""
            self._bring_up_at = at + self._draw(self._script.start_seconds.draw, "start")
            if self._bring_up_at > at:
                return
        self.address = self._script.ip or room.take_address()
        if not self.address:
            self._message = "FailedCreatePodSandBox: no address is free"
            self._bring_up_at = at + ROOM_RETRY
            return
        self._message = ""
        self._bring_up_at = INF
        self._start_next(at)

    def _start_next(self, at: float) -> None:
        """Start the next init container, and beside a sidecar the one after it; after the last all app containers."""
        for init in self.containers[: self._inits]:
            if init.fresh:
                self._start(init, at)
            if not init.passed:
                return
        for container in self.containers[self._inits :]:
            if container.fresh:
                self._start(container, at)

    def _turn(self, container: ContainerLife, at: float) -> None:
        state = container.state
        if isinstance(state, Running):
            self._exit(container, state, at)
        elif isinstance(state, Waiting) and state.reason == "ErrImagePull":
            container.state = Waiting(
                "ImagePullBackOff", f'Back-off pulling image "{container.spec.image}": {state.message}'
            )
            delay = backoff(container.failed_pulls, first=BACKOFF_BASE, cap=BACKOFF_CAP)
            container.due = at - PULL_TOLD + delay
        else:
            container.restarts += container.last_state is not None
            self._start(container, at)
            if container.sidecar:
                self._start_next(at)

    def _start(self, container: ContainerLife, at: float) -> None:
        behaviour = container.behaviour
        if container.failed_pulls < behaviour.pull_failures:
            self._fail_pull(container, at)
            return
        container.state = Running(at)
        container.due = INF
        if behaviour.run_seconds is not None:
            what = f"run {container.spec.name} {container.restarts}"
            container.due = at + self._draw(behaviour.run_seconds.draw, what)

    def _fail_pull(self, container: ContainerLife, at: float) -> None:
        image = container.spec.image
        if container.spec.pull_policy == "Never":
            container.state = Waiting(
                "ErrImageNeverPull", f'Container image "{image}" is not present with pull policy of Never'
            )
            container.due = INF
            return
        container.failed_pulls += 1
        container.state = Waiting("ErrImagePull", f'failed to pull image "{image}": the simulation has none')
        container.due = at + PULL_TOLD

    def _exit(self, container: ContainerLife, run: Running, at: float) -> None:
        ended = self._ended(container, run, at)
        container.due = INF
        delay = None if self._ending else self._restart_delay(container, ended)
        if delay is None:
            container.state = ended
            self._after_last(container, at)
            return
        container.last_state = ended
        container.backoff = delay
        if delay == 0:
            container.restarts += 1
            self._start(container, at)
        else:
            container.state = Waiting("CrashLoopBackOff", self._back_off_message(container, delay))
            container.due = at + delay

    def _ended(self, container: ContainerLife, run: Running, at: float) -> Terminated:
        behaviour = container.behaviour
        if not self._ending:
            reason = behaviour.exit_reason or ("Error" if behaviour.exit_code else "Completed")
            return Terminated(behaviour.exit_code, reason, run.started_at, at)
        if container.stops_at <= at:
            return Terminated(0, "Completed", run.started_at, at)
        return Terminated(128 + SIGKILL, "Error", run.started_at, at, signal=SIGKILL)

    def _restart_delay(self, container: ContainerLife, ended: Terminated) -> float | None:
        """Seconds until it runs again; None if never. The first time, and after a good run, at once."""
        policy = self.restart_policy
        done = ended.exit_code == 0 and (container.init or policy == "OnFailure")
        if (policy == "Never" or done) and not container.sidecar:
            return None
        if container.restarts == 0 or ended.finished_at - ended.started_at >= GOOD_RUN:
            return 0.0
        return min(BACKOFF_CAP, max(BACKOFF_BASE, 2 * container.backoff))

    def _back_off_message(self, container: ContainerLife, delay: float) -> str:
        minutes, rest = divmod(round(delay), 60)
        duration = f"{minutes}m{rest}s" if minutes else f"{rest}s"
        who = self.identity
        return (
            f"back-off {duration} restarting failed container={container.spec.name} "
            f"pod={who.name}_{who.namespace}({who.uid})"
        )

    def _after_last(self, container: ContainerLife, at: float) -> None:
        """A container ended for good: go on with the next, or the pod is done and has no deadline any more."""
        if self._ending:
            self._stop_next(at)
            return
        if container.init and container.completed:
            self._start_next(at)
        elif container.init or all(isinstance(c.state, Terminated) for c in self.containers[self._inits :]):
            self._deadline_at = INF
            if any(isinstance(init.state, Running | Waiting) for init in self._sidecars):
                self._end(at, at + max(MINIMUM_GRACE, self._grace))

    # --- the end ---

    def _fail(self, at: float, reason: str, message: str) -> None:
        self.failed, self._reason, self._message = True, reason, message
        self._end(at, at + max(MINIMUM_GRACE, self._grace))

    def _end(self, at: float, kill_at: float) -> None:
        self._kill_at = min(self._kill_at, kill_at)
        if not self._ending:
            self._ending = True
            self._bring_up_at = self._deadline_at = INF
            for container in self.containers:
                self._leave_backoff(container)
        self._stop_next(at)

    def _stop_next(self, at: float) -> None:
        """Stop the app containers, and once none of them runs, the last sidecar that does."""
        running = [c for c in self.containers if isinstance(c.state, Running)]
        turn = [c for c in running if not c.sidecar] or running[-1:]
        for container in turn:
            if container.stops_at == INF:
                what = f"stop {container.spec.name}"
                container.stops_at = at + self._draw(container.behaviour.stop_seconds.draw, what)
        for container in running:
            container.due = min(container.stops_at, self._kill_at)

    def _leave_backoff(self, container: ContainerLife) -> None:
        container.due = INF
        if container.last_state is not None and isinstance(container.state, Waiting):
            container.state, container.last_state = container.last_state, None

    def _draw(self, draw: Callable[[Callable[[], float]], float], what: str) -> float:
        return draw(lambda: chance(*self._luck, what))


@lru_cache(maxsize=256)
def _image_id(image: str) -> str:
    return f"simulated://{image}"


CREATING = Waiting("ContainerCreating")
PREPARING = Waiting("PodInitializing")
