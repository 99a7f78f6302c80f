"""Messages of containers that end without a word, from their logs."""

import asyncio

import pytest
from msgspec import structs

from overspill.backends.eci import messages
from overspill.backends.eci.answers import ContainerStatus, LogAnswer, PodStatus, StatusEntry
from overspill.backends.eci.answers import State as ToldState
from overspill.backends.eci.answers import Terminated as End
from overspill.backends.eci.groups import Groups
from overspill.backends.eci.messages import LONGEST_HOLD, Messages
from overspill.backends.eci.status import Group
from overspill.backends.feed import Feed
from overspill.errors import Retry
from overspill.model.observation import (
    ContainerObservation,
    Gone,
    Observation,
    Running,
    State,
    Terminated,
    Waiting,
)
from overspill.model.work import Identity

WHO = Identity("cluster", "node", "shop", "web", "uid")
GROUP = Group(
    id="eci-1",
    identity=WHO,
    containers=(("app", "x"),),
    from_logs=frozenset({"app"}),
    created_at=1.0,
)


class Eci:
    """Answers with the end of a log, or not at all."""

    def __init__(self, content: str | None = "words"):
        self.content = content
        self.asked = []

    async def call(self, action, parameters, kind, *, tries):
        self.asked.append((action, parameters))
        if self.content is None:
            raise Retry("no answer")
        return LogAnswer(content=self.content)


def seen(state: State, last: State | None = None) -> Observation:
    return Observation(WHO, 1.0, (ContainerObservation("app", state, "x", last_state=last),))


def ended(at: float = 9.0, *, code: int = 1, message: str = "") -> Terminated:
    return Terminated(code, "Error", 2.0, at, message)


async def words_of(words: Messages, observed: Observation) -> ContainerObservation:
    """The container, once it is told of."""
    told = asyncio.Event()
    words.on_more = lambda _: told.set()
    task = asyncio.create_task(words.run())
    words.complete(GROUP, observed)
    if words.holds(GROUP.id):
        await told.wait()
    task.cancel()
    return words.complete(GROUP, observed).containers[0]


async def test_who_succeeds_speaks_or_runs_is_not_asked_about():
    words = Messages(Eci())
    for state in (ended(code=0), ended(message="spoken"), Running(1.0), Waiting("ErrImagePull")):
        assert words.complete(GROUP, seen(state)) == seen(state)
    other = structs.replace(GROUP, from_logs=frozenset())
    assert words.complete(other, seen(ended())) == seen(ended())


async def test_the_log_is_that_of_the_run_that_ended():
    for state, last, previous in (
        (ended(), None, None),
        (Running(10.0), ended(), True),
        (Waiting("CrashLoopBackOff"), ended(), None),
    ):
        eci = Eci()
        told = await words_of(Messages(eci), seen(state, last))
        assert [each.message for each in (told.state, told.last_state) if isinstance(each, Terminated)] == [
            "words"
        ]
        ((action, asked),) = eci.asked
        assert (action, asked["ContainerName"], asked["LastTime"]) == (
            "DescribeContainerLog",
            "app",
            previous,
        )


async def test_the_end_is_told_also_without_an_answer_and_only_its_last_bytes():
    told = await words_of(Messages(Eci(None)), seen(ended()))
    assert told.state == ended()
    told = await words_of(Messages(Eci("a" * 5000 + "z")), seen(ended()))
    assert told.state == ended(message="a" * 2047 + "z")


async def test_of_a_container_that_fails_again_and_again_two_runs_are_remembered():
    eci = Eci()
    words = Messages(eci)
    for at in (1.0, 2.0, 3.0, 3.0, 2.0):
        await words_of(words, seen(ended(at)))
    assert len(eci.asked) == 3
    await words_of(words, seen(ended(1.0)))
    assert len(eci.asked) == 4
    words.forget(GROUP.id)
    await words_of(words, seen(ended(1.0)))
    assert len(eci.asked) == 5


async def test_too_many_at_once_are_told_without(monkeypatch):
    monkeypatch.setattr(messages, "MOST_WAITING", 1)
    words = Messages(Eci())
    for group, held in ((GROUP, True), (structs.replace(GROUP, id="eci-2"), False)):
        assert words.complete(group, seen(ended())) == seen(ended())
        assert words.holds(group.id) is held


class Hanging(Eci):
    """Answers with the end of a log when it may."""

    def __init__(self):
        super().__init__()
        self.free = asyncio.Event()

    async def call(self, action, parameters, kind, *, tries):
        await self.free.wait()
        return await super().call(action, parameters, kind, tries=tries)


def entry(state: ToldState, status: str) -> StatusEntry:
    return StatusEntry("eci-1", status, PodStatus(container_statuses=(ContainerStatus("app", state=state),)))


FAILED = entry(ToldState(terminated=End(exit_code=42, finished_at="2026-11-30T10:00:00Z")), "Failed")


class Told:
    """Groups whose logs are asked for, and what is told of them."""

    def __init__(self, eci: Eci) -> None:
        feed = Feed()
        self.batches = feed.watch()
        self.messages = Messages(eci)
        self.groups = Groups(
            feed,
            remove=lambda _: None,
            quote=lambda _: {},
            complete=self.messages.complete,
            holds=self.messages.holds,
        )
        self.messages.on_more = self.groups.look_again
        self.groups.on_gone = lambda tracked: self.messages.forget(tracked.group.id)
        self.known = self.groups.add(GROUP)
        self.asking = asyncio.ensure_future(self.messages.run())

    async def next(self):
        return (await anext(self.batches))[-1]


@pytest.mark.looptime
async def test_an_end_is_told_although_its_log_hangs_and_again_with_it():
    eci = Hanging()
    world, clock = Told(eci), asyncio.get_running_loop().time
    await world.next()
    began = clock()
    world.groups.update(FAILED)
    first = await world.next()
    assert 1 < clock() - began <= LONGEST_HOLD
    assert (first.containers[0].state.exit_code, first.containers[0].state.message) == (42, "")
    eci.free.set()
    assert (await world.next()).containers[0].state.message == "words"
    world.asking.cancel()


@pytest.mark.looptime
async def test_a_pod_that_goes_while_its_log_is_asked_for_keeps_its_exit_code():
    world = Told(Hanging())
    await world.next()
    world.groups.update(FAILED)
    world.groups.gone(world.known)
    gone = await world.next()
    assert isinstance(gone, Gone)
    assert gone.last.containers[0].state.exit_code == 42
    assert not world.messages.holds(GROUP.id)
    await asyncio.sleep(60)
    world.asking.cancel()
