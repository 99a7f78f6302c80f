"""Messages of containers that end without a word, from their logs."""

import asyncio

from msgspec import structs

from overspill.backends.eci import messages
from overspill.backends.eci.answers import LogAnswer
from overspill.backends.eci.messages import Messages
from overspill.backends.eci.status import Group
from overspill.errors import Retry
from overspill.model.observation import (
    ContainerObservation,
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
    task = asyncio.create_task(words.run(tell=lambda _: told.set()))
    if (whole := words.complete(GROUP, observed)) is None:
        await told.wait()
        whole = words.complete(GROUP, observed)
    task.cancel()
    assert whole is not None
    return whole.containers[0]


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
    assert words.complete(GROUP, seen(ended())) is None
    other = structs.replace(GROUP, id="eci-2")
    assert words.complete(other, seen(ended())) == seen(ended())
