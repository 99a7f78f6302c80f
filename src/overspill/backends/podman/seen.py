"""What is known of one pod, as plain values: the input of every decision about it.

In: from `inspect.py` (Podman's answers) and the pod's folder. Out: to
`plan.py` and `observe.py`. Invariant: everything here is brought back by a
listing and the folder, but for `signalled`, `asked`, `images`, `troubles` and
`failures`, whose loss costs one repeated attempt. Times are seconds since 1970.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from overspill.model.work import Resources

__all__ = [
    "Deletion",
    "Eviction",
    "Hook",
    "Marks",
    "PulledImage",
    "Run",
    "Sandbox",
    "Seen",
    "Trouble",
    "latest_runs",
]


class Run(Struct, frozen=True):
    """One container of Podman: one run of one of the pod's containers.

    Attributes:
        number: counts the runs of that container from 0.
        backoff: seconds that were waited before it.
        failure: why it could not be started, if so: it then counts as ended with code 128.
        stop_signal: what the image wants to be asked to stop with.
        asked_image: the image in the pod's words; "" if it does not tell.
        message: what it left to say why it ended.
        resources: what it was made with.
    """

    id: str
    container: str
    number: int
    state: Literal["created", "running", "exited"]
    backoff: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    stop_signal: int = 15
    image: str = ""
    asked_image: str = ""
    image_id: str = ""
    address: str = ""
    failure: str = ""
    message: str = ""
    resources: Resources = Resources()


class Hook(Struct, frozen=True, omit_defaults=True):
    """A hook that was begun at `at`; `ended` is None while it runs."""

    at: float
    ended: float | None = None
    failed: bool = False


class Marks(Struct, frozen=True, omit_defaults=True):
    """What is known of a run that Podman does not know: its hooks, and what its probes have found.

    Attributes:
        started: its startup probe has succeeded.
        ready: its readiness probe holds.
        changed_at: when either of them last changed.
        doomed: why it is being stopped, before its pod is: it then counts as failed, whatever it ends with.
        doomed_at: since when.
        resources: what it was given since, if it was resized.
    """

    post_start: Hook | None = None
    pre_stop: Hook | None = None
    started: bool = False
    ready: bool = False
    changed_at: float = 0.0
    doomed: Literal["", "Liveness", "Startup", "PostStart", "Resize", "Image"] = ""
    doomed_at: float = 0.0
    resources: Resources | None = None


NO_MARKS = Marks()


class Sandbox(Struct, frozen=True):
    """The pod in Podman with its infra container, which holds the namespaces.

    Attributes:
        infra: id of the infra container; empty when the making of the pod was cut short.
        namespace: path of its network namespace.
    """

    id: str
    infra: str = ""
    running: bool = False
    ips: tuple[str, ...] = ()
    namespace: str = ""


class PulledImage(Struct, frozen=True):
    """An image at hand for the run `number` of a container.

    Attributes:
        name: what the container calls it.
        reference: what Podman finds it by.
        image_id: what the pod's status says: repository@digest where that is known.
        user: whom the image runs as.
    """

    number: int
    name: str
    reference: str
    image_id: str
    user: str = ""


class Trouble(Struct, frozen=True):
    """Something that failed at `at` and is tried again `delay` seconds later; None for never."""

    reason: str
    message: str
    at: float
    delay: float | None


class Deletion(Struct, frozen=True):
    """The pod's end was asked for at `at`; SIGKILL follows `grace` seconds later."""

    at: float
    grace: float


class Eviction(Struct, frozen=True):
    """The backend gave the pod up at `at`."""

    at: float
    reason: str
    message: str


class Seen(Struct, frozen=True, kw_only=True):
    """One pod.

    Attributes:
        taken_at: when the backend took it on.
        runs: at most a few per container.
        images: by container.
        troubles: by container; "" for the sandbox.
        signalled: the signal last sent to a run, by its id.
        asked: when a run was asked to stop, by its id; also when Podman refused that.
        marks: of runs that have any, by their id.
        unknown: Podman has not been able to tell of it since this process began.
    """

    taken_at: float
    sandbox: Sandbox | None = None
    runs: tuple[Run, ...] = ()
    images: dict[str, PulledImage] = {}
    troubles: dict[str, Trouble] = {}
    signalled: dict[str, int] = {}
    asked: dict[str, float] = {}
    marks: dict[str, Marks] = {}
    deletion: Deletion | None = None
    eviction: Eviction | None = None
    unknown: bool = False

    def runs_of(self, container: str) -> list[Run]:
        """The runs of one container, newest first."""
        return sorted((run for run in self.runs if run.container == container), key=_number, reverse=True)

    def marks_of(self, run: Run) -> Marks:
        """What is known of a run beside what Podman knows."""
        return self.marks.get(run.id, NO_MARKS)

    @property
    def live(self) -> list[Run]:
        """The runs that have a process."""
        return [run for run in self.runs if run.state == "running"]


def latest_runs(runs: Iterable[Run]) -> dict[str, Run]:
    """The newest run of each container."""
    return {run.container: run for run in sorted(runs, key=_number)}


def _number(run: Run) -> int:
    return run.number
