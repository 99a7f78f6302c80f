"""The collector of orphans, against an emulator's groups and a small apiserver's pods."""

import asyncio

import pytest
from emulators import emulator, until
from kube_server import reasons
from orphans_world import orphan_world
from structlog.testing import capture_logs

from overspill.metrics import REGISTRY


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with emulator(tmp_path) as rig, orphan_world(rig, monkeypatch) as made:
        yield made


def told(series: str, **labels) -> float | None:
    return REGISTRY.get_sample_value(series, labels)


async def test_an_orphan_goes_after_two_looks_and_the_quiet_time_and_nothing_else_does(world):
    owned = await world.group(world.kube.pod("owned"))
    orphan = await world.orphan()
    deleted = told("overspill_orphans_deleted_total", state="Orphan") or 0.0
    collector = world.collector()
    await world.looks(collector, times=2, seconds=50.0)
    assert await world.groups() == {owned, orphan}
    await collector.look()
    assert await world.groups() == {owned}
    assert told("overspill_orphans_deleted_total", state="Orphan") == deleted + 1


async def test_what_was_deleted_is_told_as_an_event_with_its_price(world):
    orphan = await world.orphan("lost")
    await world.rig.until_status(orphan, "Running")
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(world.events.run())
        await world.looks(world.collector())

        async def an_event():
            return world.kube.events

        (event,) = await until(an_event, "an event")
        writing.cancel()
    assert (event["reason"], event["type"]) == ("OrphanDeleted", "Normal")
    assert event["regarding"]["kind"] == "Node"
    assert orphan in event["note"]
    assert "default/lost" in event["note"]
    assert "CNY/h" in event["note"]


async def test_figures_tell_what_there_is_and_what_it_costs_until_another_leads(world):
    kept = await world.group(world.kube.pod("owned"))
    await world.rig.until_status(kept, "Running")
    await world.rig.until_status(await world.orphan(), "Running")
    await world.rig.create("somebody-elses")
    expected = {"Owned": 1, "Orphan": 1, "Adoptable": 0, "Duplicate": 0, "Terminating": 0, "Foreign": 1}

    async def as_expected():
        seen = {state: told("overspill_container_groups", state=state) for state in expected}
        return seen == expected and told("overspill_orphans_last_look_timestamp_seconds")

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.collector(delete=False).run())
        await until(as_expected, "figures")
        price = told("overspill_orphans_price_per_second", currency="CNY")
        running.cancel()
    assert price
    assert price > 0
    assert told("overspill_container_groups", state="Orphan") is None
    assert told("overspill_orphans_last_look_timestamp_seconds") == 0


async def test_how_long_a_node_is_on_its_way_out(world):
    collector = world.collector()
    await collector.look()
    assert told("overspill_decommission_oldest_seconds") == 0
    world.kube.leaving["vn-0"] = "2026-01-01T00:00:00Z"
    await collector.look()
    assert told("overspill_decommission_oldest_seconds") > 3600


async def test_nothing_is_deleted_where_the_policy_is_to_report(world):
    orphan = await world.orphan()
    with capture_logs() as logs:
        await world.looks(world.collector(delete=False))
    assert await world.groups() == {orphan}
    assert [each["group"] for each in logs if each["event"] == "container group is unwanted"] == [orphan]


@pytest.mark.parametrize("fault", ["error", "throttle"])
@pytest.mark.parametrize("action", ["DescribeContainerGroupStatus", "DescribeContainerGroups"])
async def test_a_list_of_groups_that_fails_or_is_throttled_deletes_nothing(world, fault, action, monkeypatch):
    monkeypatch.setattr("overspill.backends.eci.client.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("overspill.backends.eci.client.LONGEST_PAUSE", 0.001)
    orphan = await world.orphan()
    await world.rig.admin("POST", "/faults", {"kind": fault, "actions": [action]})
    with capture_logs() as logs:
        await world.looks(world.collector())
    assert [each["event"] for each in logs].count("orphans cannot be told; none is deleted") == 3
    await world.rig.admin("DELETE", "/faults")
    assert await world.groups() == {orphan}


@pytest.mark.parametrize("refused", ["pods", "nodes", "kube-system"])
async def test_a_list_of_the_apiserver_that_fails_deletes_nothing(world, refused):
    orphan = await world.orphan()
    collector = world.collector()
    await world.looks(collector, times=1)
    world.kube.refused = refused
    await world.looks(collector)
    assert await world.groups() == {orphan}


async def test_a_list_of_pods_that_ends_in_its_midst_deletes_nothing(world):
    """The pod of a group is on a page that never comes."""
    owned = await world.group(world.kube.pod("owned"))
    world.kube.cut_after = 1
    await world.looks(world.collector())
    assert await world.groups() == {owned}


async def test_an_apiserver_without_any_pod_is_not_believed(world):
    owned = await world.group(world.kube.pod("owned"))
    world.kube.pods.clear()
    collector = world.collector()
    with capture_logs() as logs:
        await world.looks(collector)
        assert told("overspill_orphans_doubted") == 1
    assert await world.groups() == {owned}
    assert [each["event"] for each in logs].count("orphans are not believed") == 1
    assert reasons(world.events) == ["OrphansDoubted"]
    world.kube.pod("back")
    await collector.look()
    assert told("overspill_orphans_doubted") == 0


async def test_a_restored_apiserver_does_not_cost_most_of_the_groups(world):
    """A backup from before most pods were made: their groups look like orphans, in one look as in the next."""
    owners = [world.kube.pod(f"pod-{n}") for n in range(12)]
    groups = {await world.group(owner) for owner in owners}
    collector = world.collector()
    await world.looks(collector)
    for owner in owners:
        del world.kube.pods[owner.uid]
    world.kube.version = 50
    await world.looks(collector, times=5)
    assert await world.groups() == groups


async def test_versions_that_go_back_begin_the_count_anew(world):
    orphan = await world.orphan()
    collector = world.collector(quiet_seconds=0.0)
    await world.looks(collector, times=1)
    world.kube.version -= 1
    await world.looks(collector, times=1)
    assert await world.groups() == {orphan}
    await world.looks(collector, times=1)
    assert await world.groups() == set()


async def test_an_apiserver_of_another_cluster_is_noticed(world):
    """As when the control plane behind the address was made anew: the groups are not its."""
    owned = await world.group(world.kube.pod("owned"))
    world.kube.cluster = "another"
    world.kube.pods.clear()
    world.kube.pod("of-another-cluster")
    await world.looks(world.collector())
    assert await world.groups() == {owned}


async def test_two_clusters_with_equal_node_names_in_one_account_leave_each_other_alone(world, monkeypatch):
    async with orphan_world(world.rig, monkeypatch) as other:
        mine, my_orphan = await world.group(world.kube.pod("web-0")), await world.orphan("web-1")
        theirs, their_orphan = await other.group(other.kube.pod("web-0")), await other.orphan("web-1")
        await world.looks(world.collector())
        assert await world.groups() == {mine, theirs, their_orphan}
        await other.looks(other.collector())
        assert await world.groups() == {mine, theirs}
    assert my_orphan != their_orphan


async def test_a_duplicate_made_by_a_lost_reply_and_another_token_goes(world):
    """The pod names the one that its agent knows of."""
    identity = world.kube.pod("web")
    first, second = await world.group(identity), await world.group(identity)
    world.kube.name_instance(identity, first)
    await world.looks(world.collector())
    assert await world.groups() == {first}
    assert second != first
    assert reasons(world.events) == ["DuplicateDeleted"]


async def test_who_does_not_surely_lead_deletes_nothing(world):
    orphan = await world.orphan()
    world.leads = False
    await world.looks(world.collector())
    assert await world.groups() == {orphan}


async def test_leaders_that_come_and_go_count_on_from_each_other(world):
    """None of them leads for as long as the quiet time."""
    orphan = await world.orphan()
    for _ in range(2):
        await world.looks(world.collector(), times=2, seconds=20.0)
        assert await world.groups() == {orphan}
        world.now += 1000.0
    await world.looks(world.collector(), times=2, seconds=20.0)
    assert await world.groups() == set()


async def test_two_looks_are_needed_whatever_a_predecessor_saw(world):
    """The pod of its group came back to the list meanwhile, and is gone again."""
    identity = world.kube.pod("web")
    group = await world.group(identity)
    pod = world.kube.pods.pop(identity.uid)
    await world.looks(world.collector(), times=1)
    world.kube.pods[identity.uid] = pod
    successor = world.collector(quiet_seconds=0.0)
    await world.looks(successor, times=1)
    del world.kube.pods[identity.uid]
    await world.looks(successor, times=1)
    assert await world.groups() == {group}


async def test_nothing_is_kept_for_a_successor_where_nothing_is_unwanted_or_who_looks_may_not_lead(world):
    collector = world.collector()
    await world.looks(collector)
    assert not world.kube.record
    await world.orphan()
    world.leads = False
    await world.looks(collector)
    assert not world.kube.record


async def test_a_record_that_is_not_ours_counts_for_nothing(world):
    orphan = await world.orphan()
    world.kube.record = {"metadata": {"resourceVersion": "1"}, "data": {"sightings": '{"x": {"looks": "2"}}'}}
    await world.looks(world.collector(quiet_seconds=0.0), times=1)
    assert await world.groups() == {orphan}
    assert orphan in world.kube.record["data"]["sightings"]


async def test_a_record_that_cannot_be_read_deletes_nothing_and_one_that_cannot_be_written_delays_nobody(
    world,
):
    orphan = await world.orphan()
    collector = world.collector()
    failed = {"backend": "eci", "op": "inventory", "code": "Rejected"}
    before = told("overspill_backend_request_seconds_count", **failed) or 0
    world.kube.refused = "configmaps"
    await world.looks(collector)
    assert await world.groups() == {orphan}
    assert told("overspill_backend_request_seconds_count", **failed) == before + 3
    world.kube.refused = ""
    await world.looks(collector, times=1)
    world.kube.refused = "configmaps"
    with capture_logs() as logs:
        await world.looks(collector, times=1)
    assert "sightings of orphans could not be kept for a successor" in [each["event"] for each in logs]
    assert await world.groups() == set()


async def test_so_many_a_minute_and_no_more(world):
    for number in range(5):
        await world.orphan(f"gone-{number}")
    collector = world.collector(quiet_seconds=0.0, per_minute=2)
    await world.looks(collector, times=3, seconds=1.0)
    assert len(await world.groups()) == 3
    world.now += 60.0
    await collector.look()
    assert len(await world.groups()) == 1


async def test_one_that_cannot_be_deleted_does_not_stop_the_others(world, monkeypatch):
    monkeypatch.setattr("overspill.backends.eci.client.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("overspill.backends.eci.client.LONGEST_PAUSE", 0.001)
    for number in range(2):
        await world.orphan(f"gone-{number}")
    fault = {"kind": "error", "status": 500, "actions": ["DeleteContainerGroup"], "count": 4}
    await world.rig.admin("POST", "/faults", fault)
    collector = world.collector(quiet_seconds=0.0)
    await world.looks(collector, times=2)
    assert len(await world.groups()) == 1
    await collector.look()
    assert await world.groups() == set()
