"""The kubelet's rules about containers: order, exit codes, restarts, back-off, images, the deadline."""

import pytest
from harness import Play, Stage, ended, runs, waits

from overspill.errors import NotFound, Unsupported
from overspill.model.observation import Observation, Running, Terminated, Waiting
from overspill.model.podstatus import phase_of
from overspill.model.work import WorkSpec


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    ("policy", "restarts_on"), [("Always", {0, 1}), ("OnFailure", {1}), ("Never", set())]
)
async def test_restart_policy(stage: Stage, policy, restarts_on, code):
    work = stage.pod(Play(seconds=0.1, code=code), restart_policy=policy)
    await stage.backend.create(work)
    if code in restarts_on:
        seen = await stage.until(work, lambda seen: seen.containers[0].restarts > 0)
        assert phase_of(seen) == "Running"
        last = seen.containers[0].last_state
    else:
        seen = await stage.until(work, lambda seen: ended(seen.containers[0]))
        assert seen.containers[0].restarts == 0
        assert phase_of(seen) == ("Failed" if code else "Succeeded")
        last = seen.containers[0].state
    assert isinstance(last, Terminated)
    assert (last.exit_code, last.reason) == (code, "Error" if code else "Completed")
    assert last.started_at <= last.finished_at


@pytest.mark.parametrize("code", [2, 42, 255])
async def test_exit_codes_are_kept(stage: Stage, code):
    work = stage.pod(Play(seconds=0, code=code), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: ended(seen.containers[0]))
    assert seen.containers[0].state.exit_code == code


async def test_a_pod_ends_when_its_last_container_does(stage: Stage):
    work = stage.pod(Play(name="short", seconds=0), Play(name="long", seconds=1.5), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: ended(seen.containers[0]) and runs(seen.containers[1]))
    assert phase_of(seen) == "Running"
    assert not seen.containers[0].ready
    seen = await stage.until(work, lambda seen: all(map(ended, seen.containers)))
    assert phase_of(seen) == "Succeeded"
    assert await stage.listed(work), "a pod that has ended stays until it is deleted"


async def test_crash_loop_backs_off_after_the_first_restart(stage: Stage):
    work = stage.pod(Play(seconds=0, code=3))
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: waits(seen.containers[0], "CrashLoopBackOff"))
    (main,) = seen.containers
    identity = work.identity
    assert main.restarts == 1, "the first restart comes at once"
    assert main.will_restart
    assert not main.ready
    assert main.last_state.exit_code == 3
    assert main.state.message == (
        f"back-off 10s restarting failed container=main pod=pod_default({identity.uid})"
    )
    assert phase_of(seen) == "Running"


async def test_other_containers_do_not_mind_a_crash_loop(stage: Stage):
    work = stage.pod(Play(name="crashes", seconds=0, code=1), Play(name="runs"))
    await stage.backend.create(work)
    seen = await stage.until(
        work, lambda seen: waits(seen.containers[0], "CrashLoopBackOff") and runs(seen.containers[1])
    )
    assert seen.containers[1].restarts == 0


async def test_the_others_wait_for_the_first_init_container(stage: Stage):
    work = stage.pod(init=[Play(name="init"), Play(name="second")])
    await stage.backend.create(work)
    early = await stage.until(work, lambda seen: runs(seen.init_containers[0]))
    assert phase_of(early) == "Pending"
    assert waits(early.init_containers[1], "PodInitializing")
    assert waits(early.containers[0], "PodInitializing")


async def test_init_containers_run_one_after_the_other(stage: Stage):
    work = stage.pod(init=[Play(name="first", seconds=0.3), Play(name="second", seconds=0.3)])
    await stage.backend.create(work)
    seen = await stage.running(work)
    first, second = (init.state for init in seen.init_containers)
    assert first.finished_at <= second.started_at
    assert second.finished_at <= seen.containers[0].state.started_at
    assert (first.exit_code, second.exit_code) == (0, 0)


async def test_a_failing_init_container_ends_a_pod_that_never_restarts(stage: Stage):
    work = stage.pod(init=[Play(name="init", seconds=0, code=9)], restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: ended(seen.init_containers[0]))
    assert phase_of(seen) == "Failed"
    assert seen.init_containers[0].state.exit_code == 9
    assert isinstance(seen.containers[0].state, Waiting)


async def test_a_failing_init_container_is_run_again(stage: Stage):
    work = stage.pod(init=[Play(name="init", seconds=0, code=9)])
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: waits(seen.init_containers[0], "CrashLoopBackOff"))
    assert seen.init_containers[0].restarts == 1
    assert phase_of(seen) == "Pending"
    assert not any(runs(c) for s in observations(stage, work) for c in s.containers)


async def test_an_absent_image_is_told_then_backed_off_from(stage: Stage):
    work = stage.pod(Play(absent_image=True), Play(name="other"))
    await stage.backend.create(work)
    told = await stage.until(work, lambda seen: waits(seen.containers[0], "ErrImagePull"))
    image = work.containers[0].image
    assert told.containers[0].state.message
    assert not told.containers[0].started
    later = await stage.until(work, lambda seen: waits(seen.containers[0], "ImagePullBackOff"))
    assert later.containers[0].state.message.startswith(f'Back-off pulling image "{image}"')
    assert later.containers[0].restarts == 0
    assert phase_of(later) == "Pending"
    await stage.until(work, lambda seen: runs(seen.containers[1]))


async def test_an_absent_image_that_must_not_be_pulled(stage: Stage):
    work = stage.pod(Play(absent_image=True, fields={"pull_policy": "Never"}))
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: waits(seen.containers[0], "ErrImageNeverPull"))
    assert seen.containers[0].state.message == (
        f'Container image "{work.containers[0].image}" is not present with pull policy of Never'
    )


async def with_deadline(stage: Stage, begun, *plays: Play, **fields) -> WorkSpec:
    """A pod with a deadline that leaves it the time to come as far as `begun` says, however busy the machine is."""
    for seconds in (5, 15, 25):
        work = stage.pod(*plays, active_deadline_seconds=seconds, **fields)
        await stage.backend.create(work)
        seen = await stage.until(work, lambda seen: seen.failed or begun(seen))
        if not seen.failed:
            return work
    pytest.fail("no pod begins within 25 s")


async def test_the_deadline_fails_a_pod(stage: Stage):
    work = await with_deadline(stage, lambda seen: runs(seen.containers[0]))
    seen = await stage.until(work, lambda seen: seen.failed and ended(seen.containers[0]))
    assert seen.reason == "DeadlineExceeded"
    assert seen.message == "Pod was active on the node longer than the specified deadline"
    assert phase_of(seen) == "Failed"
    told = [each for each in observations(stage, work) if runs(each.containers[0])]
    assert {phase_of(each) for each in told} == {"Running"}, "it fails once it runs no more"


async def test_the_deadline_is_for_init_containers_too(stage: Stage):
    work = await with_deadline(stage, lambda seen: runs(seen.init_containers[0]), init=[Play(name="init")])
    seen = await stage.until(work, lambda seen: seen.failed and ended(seen.init_containers[0]))
    assert phase_of(seen) == "Failed"
    assert not any(runs(c) for s in observations(stage, work) for c in s.containers)


async def test_a_finished_pod_has_no_deadline(stage: Stage):
    done = Play(seconds=0)
    work = await with_deadline(stage, lambda seen: ended(seen.containers[0]), done, restart_policy="Never")
    other = stage.pod(active_deadline_seconds=work.active_deadline_seconds)  # its deadline comes later
    await stage.backend.create(other)
    await stage.until(other, lambda seen: seen.failed)
    seen = await stage.listed(work)
    assert seen
    assert not seen.failed
    assert phase_of(seen) == "Succeeded"


async def test_times_are_of_this_world(stage: Stage):
    work = await stage.start()
    other = await stage.start(name="other")
    first, second = await stage.listed(work), await stage.listed(other)
    assert first
    assert second
    assert isinstance(first.containers[0].state, Running)
    assert first.started_at <= second.started_at
    assert first.started_at > 1.7e9, "seconds since 1970"


async def test_ephemeral_containers_are_had_or_refused(stage: Stage):
    work = await stage.start()
    debug = [stage.harness.container(Play(name="debug"))]
    if "debug" in stage.backend.capabilities.verbs:
        await stage.backend.add_ephemeral(work.identity, debug)
        await stage.backend.add_ephemeral(work.identity, debug)  # a lost reply: nothing new comes of it
        seen = await stage.until(work, lambda seen: any(map(runs, seen.ephemeral_containers)))
        assert [c.name for c in seen.ephemeral_containers] == ["debug"]
    else:
        with pytest.raises(Unsupported):
            await stage.backend.add_ephemeral(work.identity, debug)
        seen = await stage.listed(work)
        assert seen
        assert seen.ephemeral_containers == ()
    assert all(runs(c) and not c.restarts for c in seen.containers)
    with pytest.raises(NotFound):
        await stage.backend.add_ephemeral(stage.pod().identity, debug)


async def test_another_image_is_had_or_refused(stage: Stage):
    work = await stage.start()
    image = work.containers[0].image
    absent = stage.harness.container(Play(absent_image=True)).image
    try:
        await stage.backend.change_images(work.identity, {"main": absent})
    except Unsupported:
        seen = await stage.listed(work)
        assert seen
        assert (seen.containers[0].image, seen.containers[0].restarts) == (image, 0)
        assert runs(seen.containers[0])
        return
    await stage.until(work, lambda seen: waits(seen.containers[0], "ErrImagePull"))
    await stage.backend.change_images(work.identity, {"main": image})
    seen = await stage.until(
        work, lambda seen: runs(seen.containers[0]) and bool(seen.containers[0].restarts)
    )
    assert (seen.containers[0].image, seen.containers[0].restarts) == (image, 1)


def observations(stage: Stage, work: WorkSpec) -> list[Observation]:
    """Everything that was seen of a pod."""
    return [s for s in stage.history if isinstance(s, Observation) and s.identity == work.identity]


SIDECAR = Play(name="beside", fields={"restart_policy": "Always"})


async def test_a_sidecar_runs_beside_the_others_and_ends_after_them(stage: Stage):
    stage.honours("initContainers[].restartPolicy")
    work = stage.pod(Play(seconds=3), init=(Play(name="before", seconds=0), SIDECAR), restart_policy="Never")
    await stage.backend.create(work)
    seen = await stage.until(work, lambda seen: runs(seen.containers[0]))
    before, beside = seen.init_containers
    assert (before.name, before.sidecar, beside.name, beside.sidecar) == ("before", False, "beside", True)
    assert ended(before)
    assert runs(beside)
    assert phase_of(seen) == "Running"
    seen = await stage.until(work, lambda seen: phase_of(seen) == "Succeeded")
    assert all(map(ended, seen.init_containers)), "it is not over before its sidecars are"


async def test_a_pod_with_a_sidecar_goes_when_it_is_deleted(stage: Stage):
    stage.honours("initContainers[].restartPolicy")
    work = stage.pod(Play(), init=(SIDECAR,))
    await stage.backend.create(work)
    await stage.until(work, lambda seen: all(map(runs, (*seen.containers, *seen.init_containers))))
    await stage.backend.delete(work.identity, grace_seconds=5)
    await stage.gone(work)
