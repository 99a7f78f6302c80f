"""Create, list, watch, delete: whose pods are there, and what is known of their end."""

from contextlib import suppress
from itertools import pairwise

import pytest
from harness import OTHER_NODE, Play, Stage, next_batch, runs
from msgspec import structs

from overspill.errors import NotFound, Retry
from overspill.model.observation import Gone, Observation, Terminated


async def test_a_created_pod_runs_and_has_an_address(stage: Stage):
    work = stage.pod()
    await stage.backend.create(work)
    seen = await stage.running(work)
    (main,) = seen.containers
    assert seen.identity == work.identity
    assert len(seen.ips) == 1
    assert (main.name, main.image, main.ready, main.started) == ("main", work.containers[0].image, True, True)
    assert (main.restarts, main.last_state, main.will_restart) == (0, None, False)
    assert main.container_id
    assert main.image_id
    assert seen.started_at <= main.state.started_at
    assert not seen.deleting
    assert not seen.failed


async def test_create_again_makes_nothing_new(stage: Stage):
    work = await stage.start()
    before = await stage.listed(work)
    await stage.backend.create(work)
    assert await stage.backend.list() == [before]


async def test_pods_have_addresses_of_their_own(stage: Stage):
    works = [stage.pod(name=f"pod-{number}") for number in range(3)]
    for work in works:
        await stage.backend.create(work)
    addresses = {(await stage.running(work)).ips for work in works}
    assert len(addresses) == 3


async def test_a_list_is_what_was_seen_last(stage: Stage):
    work = await stage.start()
    seen = [s for s in stage.history if isinstance(s, Observation) and s.identity == work.identity]
    last = seen[-1]
    assert await stage.backend.list() == [last]


async def test_nothing_is_missed_between_a_watch_and_the_list_after_it(stage: Stage):
    batches = stage.backend.watch()
    work = stage.pod()
    await stage.backend.create(work)
    listed = await stage.listed(work)
    assert listed
    while not runs(listed.containers[0]):
        batch = await next_batch(batches)
        assert not any(isinstance(sighting, Gone) for sighting in batch)
        told = [s for s in batch if isinstance(s, Observation) and s.identity == work.identity]
        listed = told[-1] if told else listed


async def test_every_watcher_is_told(stage: Stage):
    first, second = stage.backend.watch(), stage.backend.watch()
    work = stage.pod()
    await stage.backend.create(work)
    for batches in (first, second):
        assert work.identity in {s.identity for s in await next_batch(batches)}


async def test_an_observation_is_told_only_when_something_changed(stage: Stage):
    work = await stage.start(Play(seconds=0.1), restart_policy="Never")
    await stage.until(work, lambda seen: isinstance(seen.containers[0].state, Terminated))
    of_pod = [s for s in stage.history if isinstance(s, Observation) and s.identity == work.identity]
    assert all(one != following for one, following in pairwise(of_pod))


async def test_delete_ends_in_gone(stage: Stage):
    work = await stage.start()
    await stage.backend.delete(work.identity, grace_seconds=30)
    gone = await stage.gone(work)
    assert gone.last
    assert gone.last.deleting
    assert await stage.backend.list() == []
    with pytest.raises(NotFound):
        await stage.backend.delete(work.identity, grace_seconds=0)


async def test_how_a_deleted_pod_ended_is_told(stage: Stage):
    stage.same("end of a deleted pod")
    work = await stage.start()
    await stage.backend.delete(work.identity, grace_seconds=30)
    gone = await stage.gone(work)
    assert gone.last
    state = gone.last.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (0, "Completed")


async def test_a_pod_that_never_started_can_be_deleted(stage: Stage):
    work = stage.pod(Play(absent_image=True))
    await stage.backend.create(work)
    await stage.until(work, lambda seen: bool(seen.ips))
    await stage.backend.delete(work.identity, grace_seconds=30)
    await stage.gone(work)


async def test_a_later_delete_can_only_shorten_the_grace(stage: Stage):
    stage.same("grace of a delete")
    work = await stage.start(Play(ignores_term=True))
    await stage.backend.delete(work.identity, grace_seconds=3600)
    assert (await stage.until(work, lambda seen: seen.deleting)).containers[0].ready
    await stage.backend.delete(work.identity, grace_seconds=7200)
    await stage.backend.delete(work.identity, grace_seconds=0)
    gone = await stage.gone(work)
    assert gone.last
    state = gone.last.containers[0].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason) == (137, "Error")


async def test_nothing_restarts_in_a_pod_that_is_being_deleted(stage: Stage):
    work = await stage.start(
        Play(name="stays", ignores_term=True), Play(name="ends"), termination_grace_period_seconds=5
    )
    await stage.backend.delete(work.identity, grace_seconds=3600)
    seen = await stage.until(work, lambda seen: isinstance(seen.containers[1].state, Terminated))
    assert runs(seen.containers[0])
    assert not seen.containers[1].will_restart
    await stage.backend.delete(work.identity, grace_seconds=0)
    gone = await stage.gone(work)
    assert gone.last
    assert gone.last.containers[1].restarts == 0


async def test_another_attempt_is_another_group(stage: Stage):
    first = await stage.start()
    await stage.backend.delete(first.identity, grace_seconds=30)
    await stage.gone(first)
    again = structs.replace(first, identity=structs.replace(first.identity, attempt=1))
    await stage.backend.create(again)
    seen = await stage.running(again)
    assert seen.identity.attempt == 1
    with pytest.raises(NotFound):
        await stage.backend.delete(first.identity, grace_seconds=0)


async def test_pods_of_another_node_are_not_ours(stage: Stage):
    work = stage.pod(node=OTHER_NODE)
    async with stage.harness.connect(node=OTHER_NODE) as other:
        theirs = Stage(stage.harness, other)
        await other.create(work)
        await theirs.running(work)
        assert await stage.backend.list() == []
        await theirs.clean_up()
    assert not stage.history


async def test_another_backend_object_finds_everything_again(stage: Stage):
    work = await stage.start(Play(prints=("hello",)))
    before = await stage.listed(work)
    async with stage.harness.connect() as other:
        assert await other.list() == [before]
        again = Stage(stage.harness, other)
        await again.printed(work, "hello\n")
        assert await again.log(work) == "hello\n"
        await other.create(work)
        assert await other.list() == [before]
        await other.delete(work.identity, grace_seconds=30)
        await again.gone(work)
        assert await other.list() == []


async def test_not_found_is_for_every_verb(stage: Stage):
    stranger = stage.pod().identity
    backend = stage.backend
    with pytest.raises(NotFound):
        await backend.delete(stranger, grace_seconds=0)
    with pytest.raises(NotFound):
        await backend.refresh(stranger, {})
    with pytest.raises(NotFound):
        await backend.resize(stranger, {})
    with pytest.raises(NotFound):
        await backend.change_images(stranger, {"main": "another:1"})
    if "logs" in backend.capabilities.verbs:
        with pytest.raises(NotFound):
            await stage.log(stage.pod())
    if "exec" in backend.capabilities.verbs:
        with pytest.raises(NotFound):
            await backend.exec(stranger, "main", ["true"], stdin=False, tty=False)
    if "attach" in backend.capabilities.verbs:
        with pytest.raises(NotFound):
            await backend.attach(stranger, "main", stdin=False, tty=False)
    if "port-forward" in backend.capabilities.verbs:
        with pytest.raises(NotFound):
            await backend.port_forward(stranger, 80)


async def test_what_cannot_be_told_is_no_answer_about_pods(stage: Stage):
    """While the store is away: `Retry`, nothing else; afterwards the pod is as it was."""
    work = await stage.start()
    before = await stage.listed(work)
    await stage.backend.health()
    async with stage.harness.outage():
        with pytest.raises(Retry):
            await stage.backend.health()
        with pytest.raises(Retry):
            await stage.backend.list()
    async with stage.harness.connect() as other:
        assert await other.list() == [before]
    assert not any(isinstance(sighting, Gone) for sighting in stage.history)


async def test_a_pod_created_again_after_an_outage_is_not_doubled(stage: Stage):
    """A create without an answer is repeated; it was done, or it is done now."""
    work = stage.pod()
    async with stage.harness.outage():
        with suppress(Retry):
            await stage.backend.create(work)
    async with stage.harness.connect() as backend:
        await backend.create(work)
        again = Stage(stage.harness, backend)
        await again.until_listed(work, lambda seen: runs(seen.containers[0]))
        assert len(await backend.list()) == 1
        await again.clean_up()
