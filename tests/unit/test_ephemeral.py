"""`kubectl debug`: which containers the backend is asked for, and what is told of those that it cannot have."""

import msgspec
from podmaking import NODE, make_found, make_pod

from overspill.agent.ephemeral import RETRY_MISSING, EphemeralContainers
from overspill.backends.base import Capabilities
from overspill.errors import NotFound
from overspill.model.observation import ContainerObservation, Observation, Running, Waiting
from overspill.model.work import Container, Identity

WHO = Identity("cluster", "vn-0", "shop", "web", "uid-1")
SEEN = Observation(WHO, 5.0, (ContainerObservation("main", Running(6.0), "img"),))


class Backend:
    """Takes on whatever it is given."""

    name = "test"

    def __init__(self, *verbs: str, gone: bool = False) -> None:
        self.capabilities = Capabilities(frozenset({"containers[].tty"}), frozenset(verbs))
        self.asked: list[Container] = []
        self.gone = gone

    async def add_ephemeral(self, identity, containers):
        assert identity == WHO
        if self.gone:
            raise NotFound("gone")
        self.asked += containers


class Sources:
    """Finds what it was given, and nothing else."""

    def __init__(self, **found) -> None:
        self.found = make_found(**found)

    async def find(self, meta, wanted):
        return self.found


def debugged(*ephemeral, name="debug", **more):
    containers = ephemeral or ({"name": name, "image": "example.test/tools:1", **more},)
    return make_pod({}, ephemeralContainers=list(containers))


class Told(list):
    def __call__(self, container, reason, message):
        self.append((container, reason, message))


def parts(*verbs, found=None, **more):
    backend = Backend(*verbs, **more)
    return backend, EphemeralContainers(backend, Sources(**(found or {})), NODE)


async def test_the_backend_is_asked_for_what_it_does_not_tell_of():
    backend, ephemeral = parts("debug")
    pod = debugged(
        {"name": "one", "image": "i"}, {"name": "two", "image": "i", "targetContainerName": "main"}
    )
    seen = msgspec.structs.replace(
        SEEN, ephemeral_containers=(ContainerObservation("one", Running(6.0), "i"),)
    )
    assert await ephemeral.tend(pod, seen, Told()) is None
    assert [(c.name, c.target) for c in backend.asked] == [("two", "main")]


async def test_an_ordinary_pod_asks_for_nothing():
    backend, ephemeral = parts("debug")
    assert await ephemeral.tend(make_pod({}), SEEN, Told()) is None
    assert backend.asked == []
    assert ephemeral.told("uid-1", SEEN) is SEEN


async def test_a_backend_without_them_is_not_asked_and_the_user_hears_why_once():
    backend, ephemeral = parts()
    told, pod = Told(), debugged()
    for _ in range(2):
        assert await ephemeral.tend(pod, SEEN, told) is None
    why = "the test backend has no ephemeral containers"
    assert told == [("debug", "UnsupportedPod", why)]
    assert backend.asked == []
    (waiting,) = ephemeral.told(pod.metadata.uid, SEEN).ephemeral_containers
    assert waiting.state == Waiting("UnsupportedPod", why)
    ephemeral.forget(pod.metadata.uid)
    assert ephemeral.told(pod.metadata.uid, SEEN) is SEEN


async def test_fields_that_cannot_be_honoured_are_named():
    backend, ephemeral = parts("debug")
    told = Told()
    pod = debugged(tty=True, stdin=True, securityContext={"privileged": True})
    await ephemeral.tend(pod, SEEN, told)
    fields = "spec.ephemeralContainers[0].stdin, spec.ephemeralContainers[0].securityContext.privileged"
    assert sorted(told[0][2].removeprefix("the test backend cannot honour ").split(", ")) == sorted(
        fields.split(", ")
    )
    assert backend.asked == []


async def test_what_it_refers_to_is_waited_for():
    backend, ephemeral = parts("debug", found={"config_maps": {"settings": None}})
    told = Told()
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}}]
    pod = debugged(env=env)
    assert await ephemeral.tend(pod, SEEN, told) == RETRY_MISSING
    assert told == [("debug", "Failed", 'configmap "settings" not found')]
    ephemeral = EphemeralContainers(backend, Sources(config_maps={"settings": {"k": "v"}}), NODE)
    assert await ephemeral.tend(pod, SEEN, told) is None
    assert [var.value for var in backend.asked[0].env if var.name == "A"] == ["v"]


async def test_a_pod_that_ends_gets_none():
    backend, ephemeral = parts("debug")
    ending = msgspec.structs.replace(SEEN, deleting=True)
    assert await ephemeral.tend(debugged(), ending, Told()) is None
    assert backend.asked == []
    backend, ephemeral = parts("debug", gone=True)
    assert await ephemeral.tend(debugged(), SEEN, Told()) is None
