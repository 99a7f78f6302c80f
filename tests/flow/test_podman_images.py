"""Images of containers changed while their pod runs, on a real Podman: the kubelet ends them and starts them anew."""

import asyncio
import time

import pytest
from podman_life import told
from podman_pods import SLEEP, Stage, Witness, backend_of, pod, shell, staged, waits

from overspill.backends.podman.folder import Record, folders
from overspill.backends.podman.reimaging import with_images
from overspill.model.observation import Observation, Running
from podman_service import IMAGE, PodmanService

pytestmark = pytest.mark.podman

ANOTHER = "localhost/another:1"
ABSENT = "127.0.0.1:1/absent:1"


@pytest.fixture
def another(podman: PodmanService) -> str:
    """A second image."""
    podman.run("tag", IMAGE, ANOTHER)
    return ANOTHER


def runs_from(image: str, *, restarts: int):
    def condition(sighting) -> bool:
        if not isinstance(sighting, Observation):
            return False
        main = sighting.containers[0]
        return isinstance(main.state, Running) and (main.image, main.restarts) == (image, restarts)

    return condition


async def test_a_running_container_is_ended_and_runs_from_the_new_image(stage: Stage, another):
    work = pod(shell(SLEEP), shell(SLEEP, name="other"), restart_policy="Never")
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.backend.change_images(work.identity, {"main": another})
    seen = await stage.witness.until(work, runs_from(another, restarts=1))
    assert not any(waits("CrashLoopBackOff")(each) for each in stage.witness.history)
    assert isinstance(seen, Observation)
    assert (seen.containers[1].image, seen.containers[1].restarts) == (IMAGE, 0)
    assert isinstance(seen.containers[1].state, Running)
    (made,) = [each for each in stage.service.containers() if each["Names"][0].endswith("-main-1")]
    assert made["Image"] == another
    names = [each.image_id.partition("@")[0] for each in seen.containers]
    assert names == ["localhost/another", "localhost/busybox"]
    assert ("Killing", "Container main definition changed, will be restarted") in told(stage, work)


async def test_an_image_that_cannot_be_pulled_is_put_right(stage: Stage):
    """With what was asked for last: no back-off of another image counts."""
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.backend.change_images(work.identity, {"main": ABSENT})
    await stage.witness.until(work, waits("ImagePullBackOff"))
    now = time.time()
    stage.backend._node._clock = lambda: now  # so that none would ever be over
    await stage.backend.change_images(work.identity, {"main": IMAGE})
    await stage.witness.until(work, runs_from(IMAGE, restarts=1))
    stage.backend._node._clock = time.time


async def test_an_agent_that_comes_later_goes_on_with_it(podman: PodmanService, another):
    work = pod(shell(SLEEP))
    async with backend_of(podman) as first, asyncio.TaskGroup() as group:
        witness = Witness(first)
        watching = group.create_task(witness.run())
        await first.create(work)
        await witness.running(work)
        watching.cancel()
        folder = first._node.find(work.identity).pod.folder
    record = next(record for other, record in folders(folder.path.parent) if other.path == folder.path)
    # As if the first had been killed between recording the image and doing something about it.
    folder.rewrite(Record(record.taken_at, with_images(record.work, {"main": another})))
    async with staged(podman) as stage:
        await stage.witness.until(work, runs_from(another, restarts=1))
