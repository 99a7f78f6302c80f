"""Resizes: who decides what, what is told of them, and of which generation a status speaks."""

import msgspec
import pytest
from podmaking import make_pod
from test_admission import make_admission

from overspill.agent.plan import Memory
from overspill.agent.resize import DEFERRED_AGAIN, Resizer
from overspill.backends.podman.bodies import updated_limits
from overspill.backends.podman.resizing import resized_by, with_resources
from overspill.backends.podman.seen import Marks, Run, Seen
from overspill.errors import NotFound, Unsupported
from overspill.model.observation import ContainerObservation, Observation, Running, Waiting
from overspill.model.podstatus import encode, to_pod_status
from overspill.model.resizing import with_generation
from overspill.model.work import Container, Identity, Resources, WorkSpec

WHO = Identity("c", "vn-0", "default", "web", "uid-1")
SMALL, LARGE = Resources(cpu_request=1.0), Resources(cpu_request=2.0)


class Backend:
    name = "recorder"

    def __init__(self, failure=None):
        self.asked = []
        self.failure = failure

    async def resize(self, identity, resources):
        self.asked.append(dict(resources))
        if self.failure:
            raise self.failure


class World:
    """A Resizer between a pod and a backend."""

    def __init__(self, failure=None):
        self.backend = Backend(failure)
        self.admission = make_admission()
        self.now = 1000.0
        self.resizer = Resizer(self.backend, self.admission, clock=lambda: self.now)
        self.memory = Memory()

    def begin(self, pod):
        self.admission.adopt(pod)
        work = WorkSpec(identity=WHO, containers=(Container("main", "i", resources=SMALL),), hostname="web")
        self.resizer.begin(pod, work, self.memory)

    async def tend(self, pod, seen):
        self.admission.adopt(pod)
        return await self.resizer.tend(pod, seen, self.memory)

    @property
    def told(self):
        return self.memory.resize.reason, self.memory.resize.message


def pod(cpu, generation, uid="uid-1"):
    made = make_pod({"resources": {"requests": {"cpu": cpu}}}, uid=uid)
    made.metadata.generation = generation
    return made


def seen(allocated=None, resources=None, state=None, trouble=""):
    main = ContainerObservation(
        "main",
        state or Running(5.0),
        "i",
        allocated=allocated,
        resources=resources or allocated,
        resize_trouble=trouble,
    )
    return Observation(WHO, 5.0, (main,))


async def test_only_what_changed_is_asked_for_and_only_once():
    world = World()
    world.begin(pod("1", 1))
    assert await world.tend(pod("1", 1), seen(SMALL)) is None
    assert await world.tend(pod("1", 2), seen(SMALL)) is None  # something else of the spec
    assert world.backend.asked == []
    assert await world.tend(pod("2", 3), seen(SMALL)) is None
    await world.tend(pod("2", 3), seen(SMALL))
    assert world.backend.asked == [{"main": LARGE}]
    assert world.told == ("", "")
    assert world.memory.resize.since == 1000.0


async def test_a_new_agent_believes_what_the_backend_has_taken_on():
    world = World()
    await world.tend(pod("2", 3), seen(LARGE))
    assert world.backend.asked == []
    world = World()
    await world.tend(pod("2", 3), seen(SMALL))
    assert world.backend.asked == [{"main": LARGE}]


async def test_more_than_the_node_has_is_never_given():
    world = World()
    world.begin(pod("1", 1))
    assert await world.tend(pod("5", 2), seen(SMALL)) is None
    assert world.told == (
        "Infeasible",
        "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000",
    )
    assert world.backend.asked == []
    await world.tend(pod("1", 3), seen(SMALL))  # taken back
    assert world.told == ("", "")


async def test_what_others_take_now_is_waited_for():
    world = World()
    world.begin(pod("1", 1))
    world.admission.adopt(pod("2500m", 1, uid="other"))
    assert await world.tend(pod("2", 2), seen(SMALL)) == DEFERRED_AGAIN
    assert world.told == (
        "Deferred",
        "Node didn't have enough resource: cpu, requested: 2000, used: 2500, capacity: 4000",
    )
    world.now += 60
    assert await world.tend(pod("2", 2), seen(SMALL)) == DEFERRED_AGAIN
    assert world.memory.resize.since == 1000.0
    world.admission.release("other")
    assert await world.tend(pod("2", 2), seen(SMALL)) is None
    assert (world.told, world.backend.asked) == (("", ""), [{"main": LARGE}])
    assert world.admission.admit(pod("2500m", 1, uid="next"))  # what was given counts


async def test_less_is_given_on_a_node_that_is_too_full():
    world = World()
    world.begin(pod("4", 1))
    world.admission.adopt(pod("4", 1, uid="other"))
    await world.tend(pod("2", 2), seen(Resources(cpu_request=4.0)))
    assert world.backend.asked == [{"main": LARGE}]


async def test_a_backend_that_cannot_says_why():
    world = World(Unsupported("no"))
    world.begin(pod("1", 1))
    await world.tend(pod("1", 2), seen())
    assert (world.told, world.backend.asked) == (("", ""), [])
    await world.tend(pod("2", 3), seen())
    assert world.told == ("Infeasible", "no")
    await world.tend(pod("1", 4), seen())
    assert world.told == ("", "")
    world = World(Unsupported("no"))  # a new agent: what runs is taken to be what is wanted
    await world.tend(pod("2", 5), seen())
    assert world.told == ("", "")


async def test_a_pod_that_ended_meanwhile_is_no_trouble():
    world = World(NotFound("gone"))
    world.begin(pod("1", 1))
    await world.tend(pod("2", 2), seen(SMALL))
    assert world.told == ("", "")


# --- what is told ---


def conditions(observation, generation, **more):
    status = with_generation(to_pod_status(observation, host_ip="h"), generation, seen=observation, **more)
    decoded = msgspec.json.decode(encode(status))
    assert decoded.get("observedGeneration", 0) == generation
    return {each["type"]: each for each in decoded["conditions"]}


def test_the_generation_stands_with_the_status_and_each_condition():
    told = conditions(seen(), 1)
    assert {each["observedGeneration"] for each in told.values()} == {1}
    assert not {"PodResizePending", "PodResizeInProgress"} & told.keys()
    assert "observedGeneration" not in conditions(seen(), 0)["Ready"]


def test_conditions_of_a_resize_come_and_go():
    gone = {"PodResizePending": "delete", "PodResizeInProgress": "delete"}
    told = conditions(seen(SMALL), 2)
    assert {name: told[name].get("$patch") for name in gone} == gone
    told = conditions(seen(SMALL), 2, reason="Deferred", message="full", since=7.0)
    assert told["PodResizePending"] == {
        "type": "PodResizePending",
        "status": "True",
        "lastTransitionTime": "1970-01-01T00:00:07Z",
        "reason": "Deferred",
        "message": "full",
        "observedGeneration": 2,
    }


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (seen(LARGE, SMALL), ""),
        (seen(LARGE, SMALL, trouble="busy"), "Error"),
        (seen(LARGE, LARGE), None),
        (seen(LARGE, state=Waiting("ContainerCreating")), None),
        (seen(), None),
    ],
)
def test_a_resize_under_way(observation, reason):
    told = conditions(observation, 2)["PodResizeInProgress"]
    assert told.get("reason") == reason


def test_what_a_container_has_is_told_in_the_apis_words():
    has = Resources(cpu_request=0.25, cpu_limit=2.0, memory_request=64 << 20, memory_limit=100_000_000)
    decoded = msgspec.json.decode(encode(to_pod_status(seen(has), host_ip="h")))
    told = decoded["containerStatuses"][0]
    assert told["allocatedResources"] == {"cpu": "250m", "memory": "64Mi"}
    assert told["resources"] == {
        "requests": {"cpu": "250m", "memory": "64Mi"},
        "limits": {"cpu": "2", "memory": "100000000"},
    }
    silent = msgspec.json.decode(encode(to_pod_status(seen(), host_ip="h")))["containerStatuses"][0]
    assert not {"resources", "allocatedResources"} & silent.keys()


# --- what podman's supervisor does about it ---


@pytest.mark.parametrize(
    ("wanted", "restarts", "marks", "way"),
    [
        (SMALL, (), Marks(), ""),
        (LARGE, (), Marks(), "update"),
        (LARGE, (), Marks(resources=LARGE), ""),
        (SMALL, (), Marks(resources=LARGE), "update"),
        (LARGE, ("memory",), Marks(), "update"),
        (LARGE, ("cpu",), Marks(), "restart"),
        (LARGE, ("cpu",), Marks(doomed="Resize"), ""),
        (Resources(cpu_request=1.0, memory_limit=5), ("memory",), Marks(), "restart"),
    ],
)
def test_how_a_run_gets_what_it_should_have(wanted, restarts, marks, way):
    run = Run("r", "main", 0, "running", resources=SMALL)
    container = Container("main", "i", resources=wanted, restart_on_resize=restarts)
    assert resized_by(container, run, Seen(taken_at=0.0, runs=(run,), marks={"r": marks})) == way


def test_only_those_that_are_named_get_other_resources():
    work = WorkSpec(
        identity=WHO,
        containers=(Container("a", "i", resources=SMALL), Container("b", "i", resources=SMALL)),
        init_containers=(Container("s", "i", restart_policy="Always"),),
        hostname="web",
    )
    made = with_resources(work, {"a": LARGE, "s": LARGE})
    assert [each.resources for each in (*made.containers, *made.init_containers)] == [LARGE, SMALL, LARGE]


def test_limits_are_taken_away_explicitly():
    assert updated_limits(Resources()) == {
        "cpu": {"shares": 2, "period": 100_000, "quota": -1},
        "memory": {"limit": -1, "swap": -1},
    }
