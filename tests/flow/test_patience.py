"""What fails at a start and may pass by itself is tried again, for a while; the rest ends at once."""

import asyncio
import json

import pytest
import structlog

from overspill import process
from overspill.backends.eci.faults import fault
from overspill.errors import Misconfigured, Retry, Unsettled
from overspill.kube.replies import error_of

FORBIDDEN = (
    'pods is forbidden: User "system:serviceaccount:kube-system:virtual-node-eci" cannot list resource "pods" in API group ""'
    " at the cluster scope"
)


def forbidden(message=FORBIDDEN):
    """The error for an apiserver's 403."""
    status = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": message}
    return error_of(403, json.dumps(status).encode(), method="GET", path="/api/v1/pods")


def clock_off():
    """The error for ECI's answer to a request of another time."""
    told = {
        "RequestId": "R",
        "Code": "InvalidTimeStamp.Expired",
        "Message": "Specified time stamp is expired.",
    }
    return fault("DescribeContainerGroups", status=400, body=json.dumps(told).encode(), headers={})


async def in_a_task(error):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(failing(error))


async def failing(error):
    raise error


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(process, "PAUSE", 0.0)


@pytest.mark.parametrize("start", [failing, in_a_task])
@pytest.mark.parametrize("error", [forbidden(), clock_off()], ids=["roles not read", "clock not set"])
async def test_a_start_goes_on_once_that_has_passed(start, error):
    troubles = [error, error]

    async def run():
        if troubles:
            await start(troubles.pop())

    with structlog.testing.capture_logs() as logs:
        await process.patiently(run)
    assert [each["event"] for each in logs] == ["not started yet; trying again"] * 2
    assert {each["error"] for each in logs} == {str(error)}


@pytest.mark.parametrize("start", [failing, in_a_task])
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (forbidden(), 'grant verb "list" on "pods"'),
        (clock_off(), "clock is off by more than 15 minutes: set it"),
    ],
    ids=["roles", "clock"],
)
async def test_in_the_end_it_says_what_to_do(start, error, advice, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.05)
    with pytest.raises((Unsettled, ExceptionGroup)) as caught:
        await process.patiently(lambda: start(error))
    ended = caught.value
    assert advice in str(process.first_of(ended) if isinstance(ended, ExceptionGroup) else ended)


@pytest.mark.parametrize(
    "error",
    [
        Misconfigured("no such file"),
        ExceptionGroup("in the midst", [Retry("the apiserver is away")]),
        ExceptionGroup("with another", [forbidden(), ValueError("a defect")]),
    ],
    ids=["settings", "in the midst of work", "a defect beside it"],
)
async def test_what_does_not_pass_ends_at_once(error):
    tries = []

    async def run():
        tries.append(1)
        raise error

    with pytest.raises(type(error)):
        await process.patiently(run)
    assert len(tries) == 1


async def test_nobody_waits_once_the_process_is_to_end():
    with pytest.raises(Unsettled):
        await process.patiently(lambda: failing(forbidden()), hurried=lambda: True)
