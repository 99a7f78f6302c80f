"""Other images for a running pod: who is asked for what, what is told, and which run is ended for it."""

import pytest
from msgspec import structs
from podmaking import make_pod

from overspill.agent.images import change_images
from overspill.agent.plan import Memory
from overspill.backends.podman.observe import observe
from overspill.backends.podman.plan import CreateRun, Pull, Restart, Signal, Wait, next_step
from overspill.backends.podman.reimaging import with_images
from overspill.backends.podman.seen import Marks, PulledImage, Run, Sandbox, Seen, Trouble
from overspill.backends.podman.turns import completed, restart_at
from overspill.errors import NotFound, Unsupported
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.podstatus import phase_of
from overspill.model.work import Container, Identity, WorkSpec

WHO = Identity("c", "vn-0", "default", "web", "uid-1")
KEPT = "no; the pod runs on as it is until it is replaced"


class Backend:
    name = "recorder"

    def __init__(self, failure=None):
        self.asked = []
        self.failure = failure

    async def change_images(self, identity, images):
        self.asked.append(dict(images))
        if self.failure:
            raise self.failure


def pod(image, generation, **spec):
    made = make_pod({"image": image}, **spec)
    made.metadata.generation = generation
    return made


def runs_from(image):
    return Observation(WHO, 5.0, (ContainerObservation("main", Running(6.0), image),))


async def test_only_other_images_are_asked_for_and_once_for_each_spec():
    backend, memory = Backend(), Memory()
    assert await change_images(backend, pod("i:1", 1), runs_from("i:1"), memory) == ""
    assert backend.asked == []
    for _ in range(2):
        assert await change_images(backend, pod("i:2", 2), runs_from("i:1"), memory) == ""
    assert backend.asked == [{"main": "i:2"}]


async def test_init_containers_have_images_too():
    backend = Backend()
    seen = structs.replace(
        runs_from("i:1"), init_containers=(ContainerObservation("first", Running(6.0), "i:1"),)
    )
    asked = pod("i:1", 2, initContainers=[{"name": "first", "image": "i:2"}])
    await change_images(backend, asked, seen, Memory())
    assert backend.asked == [{"first": "i:2"}]


@pytest.mark.parametrize("generations", [(2, 3, 4), (0, 0, 0)], ids=["counted", "not counted"])
async def test_what_a_backend_cannot_is_told_once(generations):
    """Apiservers before 1.33 count no generations."""
    backend, memory = Backend(Unsupported("no")), Memory()
    first, second, third = generations
    assert await change_images(backend, pod("i:2", first), runs_from("i:1"), memory) == KEPT
    assert await change_images(backend, pod("i:2", second), runs_from("i:1"), memory) == ""
    assert await change_images(backend, pod("i:1", third), runs_from("i:1"), memory) == ""
    assert await change_images(backend, pod("i:2", third and 5), runs_from("i:1"), memory) == KEPT


async def test_a_pod_that_has_just_gone_is_nothing_to_tell():
    assert await change_images(Backend(NotFound("gone")), pod("i:2", 2), runs_from("i:1"), Memory()) == ""


# --- on podman ---

OLD, NEW = Container("a", "i:1"), Container("a", "i:2")
SIDECAR = Container("s", "i:2", restart_policy="Always")
PASSES = Container("p", "i:2")
UP = Sandbox("pod", "infra", running=True, ips=("10.0.0.2",))
NOW = 1000.0


def work(*containers, init=(), policy="Never"):
    return WorkSpec(
        identity=WHO,
        containers=containers or (NEW,),
        init_containers=init,
        restart_policy=policy,
        hostname="web",
    )


def run(name="a", number=0, state="running", asked="i:1", **more):
    return Run(f"{name}{number}", name, number, state, started_at=900.0, asked_image=asked, **more)


def seen(*runs, marks=None, **more):
    return Seen(taken_at=890.0, sandbox=UP, runs=runs, marks=marks or {}, **more)


DOOMED = {"a0": Marks(doomed="Image", doomed_at=990.0)}
ENDED = run(state="exited", exit_code=0, finished_at=995.0)
CRASHED = run(number=4, state="exited", exit_code=1, backoff=80.0, finished_at=995.0)
PULLED = {"a": PulledImage(1, "i:2", "i:2", "id")}
STEPS = {
    "a run of another image is ended": (work(), seen(run()), Restart(run(), "Image")),
    "one of the same image is not": (work(OLD), seen(run()), Wait(None)),
    "one that does not tell is not": (work(), seen(run(asked="")), Wait(None)),
    "it is asked as at a pod's end": (work(), seen(run(), marks=DOOMED), Signal((run(),), kill=False)),
    "it is not ended twice": (work(), seen(run(), marks=DOOMED, signalled={"a0": 15}), Wait(1020.0)),
    "the next comes at once, whatever the policy": (work(), seen(ENDED, marks=DOOMED), Pull(NEW, 1)),
    "from the new image": (work(), seen(ENDED, marks=DOOMED, images=PULLED), CreateRun(NEW, 1, 0.0)),
    "not from one pulled for the old spec": (
        work(),
        seen(images={"a": PulledImage(0, "i:1", "i:1", "id")}),
        Pull(NEW, 0),
    ),
    "one that has ended for good stays so": (work(), seen(ENDED), "the end"),
    "a crash of another image is not held against this one": (
        work(policy="Always"),
        seen(CRASHED),
        Pull(NEW, 5),
    ),
    "a sidecar is like a container": (
        work(OLD, init=(SIDECAR,)),
        seen(run("s"), run()),
        Restart(run("s"), "Image"),
    ),
    "who passes by runs on": (work(OLD, init=(PASSES,)), seen(run("p")), Wait(None)),
}


@pytest.mark.parametrize(("work", "seen", "step"), STEPS.values(), ids=STEPS.keys())
def test_steps(work, seen, step):
    if step == "the end":
        assert completed(work, seen)
    else:
        assert next_step(work, seen, NOW) == step


def test_no_back_off_follows_from_it():
    assert restart_at(work(), ENDED, doomed="Image") == (995.0, 0.0)
    assert restart_at(work(OLD, policy="Always"), CRASHED) == (995.0 + 160.0, 160.0)


def test_a_status_names_the_image_that_runs():
    told = observe(WHO, work(), seen(run()), NOW)
    assert told.containers[0].image == "i:1"
    failed = seen(ENDED, marks=DOOMED, troubles={"a": Trouble("ErrImagePull", "why", NOW, 10.0)})
    told = observe(WHO, work(), failed, NOW)
    assert (told.containers[0].image, told.containers[0].state.reason) == ("i:1", "ErrImagePull")


@pytest.mark.parametrize("doomed", ["Image", "Resize", "Liveness", "Startup"])
def test_who_is_started_anew_by_us_is_not_told_to_be_terminated(doomed):
    """The apiserver would let it out of that state under the policy `Always` only, or after a failure."""
    policy = "Never" if doomed == "Image" else "OnFailure"
    ended = seen(ENDED, marks={"a0": Marks(doomed=doomed, doomed_at=990.0)})
    told = observe(WHO, work(policy=policy), ended, NOW)
    assert told.containers[0].state == Waiting("ContainerCreating")
    assert told.containers[0].last_state == Terminated(0, "Completed", 900.0, 995.0)
    assert phase_of(told) == "Running"
    assert observe(WHO, work(policy=policy), seen(ENDED), NOW).containers[0].state == Terminated(
        0, "Completed", 900.0, 995.0
    )


def test_a_work_with_other_images():
    before = work(OLD, init=(SIDECAR,))
    assert with_images(before, {"a": "i:2", "stranger": "x"}) == work(NEW, init=(SIDECAR,))
    assert with_images(before, {}) == before
