"""Options and refusals of /containerLogs, in the kubelet's words."""

from datetime import UTC, datetime

import msgspec
import pytest

from overspill.backends.base import LogOptions
from overspill.model.observation import ContainerObservation, Observation, Running, Terminated, Waiting
from overspill.model.pods import Meta, Pod
from overspill.model.work import Identity
from overspill.serve.http import Refused
from overspill.serve.kubelet.containerlogs import log_options, refuse_unlogged
from overspill.serve.kubelet.node import ServedPod

NOW = 1_700_000_000.0


def query(text):
    return {name: [value] for name, _, value in (pair.partition("=") for pair in text.split("&") if pair)}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("follow=true&previous=false&timestamps=1", {"follow": True, "timestamps": True}),
        ("follow=", {"follow": True}),
        ("follow=0&timestamps=False", {}),
        ("tailLines=0&follow=true", {"tail_lines": 0, "follow": True}),
        ("tail=7", {"tail_lines": 7}),
        ("tail=all", {}),
        ("limitBytes=1", {"limit_bytes": 1}),
        ("sinceSeconds=60", {"since_time": NOW - 60}),
        (
            "sinceTime=2023-11-14T22:13:20Z",
            {"since_time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC).timestamp()},
        ),
        ("stream=All&tailLines=1", {"tail_lines": 1}),
        ("stream=Stdout", {"stream": "Stdout"}),
        ("stream=Stderr&limitBytes=9", {"stream": "Stderr", "limit_bytes": 9}),
        ("unknown=1", {}),
    ],
)
def test_options(text, wanted):
    assert log_options(query(text), now=NOW) == msgspec.structs.replace(LogOptions(), **wanted)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("tailLines=-1", 422, '{"message": "Invalid request."}'),
        ("limitBytes=0", 422, '{"message": "Invalid request."}'),
        ("sinceSeconds=0", 422, '{"message": "Invalid request."}'),
        ("sinceSeconds=1&sinceTime=2023-11-14T22:13:20Z", 422, '{"message": "Invalid request."}'),
        ("stream=Both", 422, '{"message": "Invalid request."}'),
        ("tailLines=many", 400, '{"message": "Unable to decode query."}'),
        ("sinceTime=yesterday", 400, '{"message": "Unable to decode query."}'),
        ("sinceTime=2023-11-14T22:13:20", 400, '{"message": "Unable to decode query."}'),
        ("stream=Stdout&tailLines=1", 422, '{"message": "Invalid request."}'),
    ],
)
def test_refused_options(text, status, said):
    with pytest.raises(Refused) as refused:
        log_options(query(text), now=NOW)
    assert refused.value.status == status
    assert said in str(refused.value)


ENDED = Terminated(exit_code=1, reason="Error", started_at=1, finished_at=2)
RUNS = Running(started_at=3)


def served(state, **fields):
    identity = Identity("cluster", "node", "default", "p", "u")
    containers = (ContainerObservation("c", state, "image", **fields),) if state else ()
    seen = Observation(identity, started_at=0, containers=containers)
    return ServedPod(Pod(Meta("p")), identity, seen)


@pytest.mark.parametrize(
    ("pod", "previous"),
    [
        (served(RUNS), False),
        (served(ENDED), False),
        (served(Waiting("CrashLoopBackOff"), last_state=ENDED, restarts=1), False),
        (served(Waiting("CrashLoopBackOff"), last_state=ENDED), True),
        (served(RUNS, restarts=1), True),
    ],
)
def test_what_has_a_log(pod, previous):
    refuse_unlogged(pod, "c", previous=previous)


@pytest.mark.parametrize(
    ("pod", "previous", "said"),
    [
        (served(RUNS), True, 'previous terminated container "c" in pod "p" not found'),
        (
            served(Waiting("ContainerCreating")),
            False,
            'container "c" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            served(Waiting("ErrImagePull")),
            False,
            'container "c" in pod "p" is waiting to start: image can\'t be pulled',
        ),
        (
            served(Waiting("ImagePullBackOff")),
            False,
            'container "c" in pod "p" is waiting to start: trying and failing to pull image',
        ),
        (served(None), False, 'container "c" in pod "p" is waiting to start: ContainerCreating'),
    ],
)
def test_what_has_none_yet(pod, previous, said):
    with pytest.raises(Refused) as refused:
        refuse_unlogged(pod, "c", previous=previous)
    assert (refused.value.status, str(refused.value)) == (400, said)
