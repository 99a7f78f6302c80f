"""The queue's promises, under a fake clock."""

import asyncio
import contextlib
import functools
import itertools

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from overspill.errors import Retry, Throttled
from overspill.kube.queue import Queue
from overspill.metrics import REGISTRY


def fast(test):
    """Run a test on a loop whose clock jumps over waiting."""

    @functools.wraps(test)
    def run():
        with asyncio.Runner(
            loop_factory=lambda: looptime.patch_event_loop(asyncio.new_event_loop())
        ) as runner:
            runner.run(test())

    return run


@contextlib.asynccontextmanager
async def running(queue):
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(queue.run())
        yield
        task.cancel()


def depth():
    return REGISTRY.get_sample_value("workqueue_depth", {"name": "test"})


def now():
    return asyncio.get_running_loop().time()


@fast
async def test_ten_adds_are_one_run():
    runs = []

    async def reconcile(key):
        runs.append(key)

    queue = Queue(reconcile, name="test")
    for _ in range(10):
        queue.add("a")
    async with running(queue):
        await asyncio.sleep(1)
    assert runs == ["a"]


@fast
async def test_one_worker_per_key_and_once_more_if_added_meanwhile():
    active, overlaps, runs = set(), [], []

    async def reconcile(key):
        if key in active:
            overlaps.append(key)
        active.add(key)
        runs.append(key)
        await asyncio.sleep(1)
        active.discard(key)

    queue = Queue(reconcile, name="test", workers=4)
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(0.5)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(5)
    assert runs == ["a", "a"]
    assert not overlaps


@fast
async def test_keys_run_in_parallel_up_to_the_workers():
    done = {}

    async def reconcile(key):
        await asyncio.sleep(1)
        done[key] = now()

    queue = Queue(reconcile, name="test", workers=2)
    start = now()
    for key in "abcd":
        queue.add(key)
    async with running(queue):
        await asyncio.sleep(10)
    assert [round(at - start) for at in done.values()] == [1, 1, 2, 2]


@fast
async def test_whatever_failed_for_long_goes_on_soon_after():
    """An apiserver that was away for an hour; what waits for it is to be right within a minute."""
    back, done = now() + 3600, []

    async def reconcile(key):
        if now() < back:
            raise Retry("away")
        done.append(now())

    queue = Queue(reconcile, name="test", workers=4)
    for key in range(5):
        queue.add(key)
    async with running(queue):
        await asyncio.sleep(3600 + 60)
    assert len(done) == 5
    assert max(done) - back < 40


@fast
async def test_failing_key_backs_off_alone():
    tries, good = [], []

    async def reconcile(key):
        if key == "bad":
            tries.append(now())
            raise ValueError("no")
        good.append(key)

    queue = Queue(reconcile, name="test", workers=1, base=1.0, cap=8.0)
    queue.add("bad")
    async with running(queue):
        for _ in range(10):
            queue.add("good")
            await asyncio.sleep(6)
    assert len(good) == 10
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert all(later > earlier for earlier, later in itertools.pairwise(gaps[:3]))
    assert max(gaps) <= 8 * 1.25 + 0.1


@fast
async def test_requeue_after_and_the_earliest_time_wins():
    runs = []

    async def reconcile(key):
        runs.append(round(now() - start))
        return 30.0 if len(runs) == 1 else None

    queue = Queue(reconcile, name="test")
    start = now()
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(1)
        queue.add("a", after=9)
        queue.add("a", after=20)
        await asyncio.sleep(100)
    assert runs == [0, 10]


@fast
async def test_depth_counts_what_waits_for_a_worker():
    async def reconcile(key):
        pass

    queue = Queue(reconcile, name="test")
    queue.add("a")
    queue.add("b")
    queue.add("c", after=5)
    assert depth() == 2


@fast
async def test_throttling_is_respected_and_a_bug_is_told_with_its_trace():
    runs = []

    async def reconcile(key):
        runs.append(now() - start)
        if len(runs) == 1:
            raise Throttled("slower", retry_after=30)
        if len(runs) == 2:
            raise ZeroDivisionError

    queue = Queue(reconcile, name="test")
    start = now()
    queue.add("a")
    with capture_logs() as logs:
        async with running(queue):
            await asyncio.sleep(100)
    assert 30 <= runs[1] < 40
    assert len(runs) == 3
    assert [bool(entry["exc_info"]) for entry in logs] == [False, True]


actions = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.0, 0.3, 2.0]),  # after
        st.sampled_from([0.0, 0.1, 0.5]),  # pause before the next add
    ),
    max_size=20,
)


@settings(max_examples=30)
@given(actions, st.integers(1, 3), st.lists(st.booleans(), max_size=12))
def test_every_key_is_run_after_its_last_add_and_never_twice_at_once(actions, workers, failures):
    fate = iter(failures)
    active, last_add, last_good = set(), {}, {}

    async def reconcile(key):
        assert key not in active
        active.add(key)
        begun = now()
        await asyncio.sleep(0.2)
        active.discard(key)
        if next(fate, False):
            raise Throttled("no", retry_after=0.1)
        last_good[key] = begun

    @fast
    async def scenario():
        queue = Queue(reconcile, name="test", workers=workers)
        async with running(queue):
            for key, after, pause in actions:
                queue.add(key, after=after)
                last_add[key] = max(last_add.get(key, 0), now())
                await asyncio.sleep(pause)
            await asyncio.sleep(1000)
        assert depth() == 0

    scenario()
    assert not active
    assert all(last_good[key] >= added for key, added in last_add.items())
