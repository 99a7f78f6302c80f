"""The view of a whole cluster's container groups at ECI, against the emulator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from aiohttp import web
from emulators import KEY, REGION, Rig, emulator, tag
from kube_server import serving
from msgspec import structs

from overspill.backends.eci.inventory import EciInventory
from overspill.backends.eci.tags import tags
from overspill.errors import Conflict, Misconfigured, NotFound, Retry
from overspill.model.work import Identity

OURS, THEIRS = "cluster-of-ours", "cluster-of-theirs"


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)


def identity(number: int = 0, *, cluster: str = OURS, node: str = "vn-0", attempt: int = 0) -> Identity:
    return Identity(cluster, node, "default", f"pod-{number}", f"uid-{number}", attempt)


async def group(rig: Rig, owner: Identity | None, **fields) -> str:
    """A group as an agent would tag it."""
    tagged = [tag(each["Key"], each["Value"]) for each in tags(owner, more={})] if owner else []
    return await rig.create(tag=tagged, **fields)


@contextlib.asynccontextmanager
async def inventory(rig: Rig, *, cluster: str = OURS) -> AsyncIterator[EciInventory]:
    options = {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
    }
    async with EciInventory(cluster=cluster, options=options) as opened:
        yield opened


async def test_groups_of_all_nodes_are_listed_page_by_page_and_others_only_counted(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        ours = {
            await group(rig, identity(n, node=f"vn-{n % 3}")): identity(n, node=f"vn-{n % 3}")
            for n in range(45)
        }
        theirs = [await group(rig, identity(n, cluster=THEIRS)) for n in range(3)]
        nobodys = [await group(rig, None)]
        listing = await found.list()
        assert {each.id: each.identity for each in listing.groups} == ours
        assert listing.foreign == len(theirs + nobodys)


async def test_what_is_known_is_not_asked_for_again(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        for number in range(21):
            await group(rig, identity(number))
        await found.list()
        calls = (await rig.admin("GET", "/status"))["calls"]
        assert calls["DescribeContainerGroups"] == 2
        await found.list()
        after = (await rig.admin("GET", "/status"))["calls"]
        assert after["DescribeContainerGroups"] == 2
        assert after["DescribeContainerGroupStatus"] == calls["DescribeContainerGroupStatus"] + 2


async def test_a_group_has_its_price_while_it_costs_money(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        created = await group(rig, identity())
        await rig.until_status(created, "Running")
        (seen,) = (await found.list()).groups
        assert (seen.status, seen.terminating, seen.ended, seen.currency) == ("Running", False, False, "CNY")
        assert seen.price is not None
        assert seen.price > Decimal(0)
        assert seen.created_at > 0


async def test_a_listing_that_fails_in_its_midst_is_an_error(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        for number in range(3):
            await group(rig, identity(number))
        for action in ("DescribeContainerGroupStatus", "DescribeContainerGroups"):
            await rig.admin("POST", "/faults", {"kind": "error", "status": 500, "actions": [action]})
            with pytest.raises(Retry):
                await found.list()
            await rig.admin("DELETE", "/faults")


async def test_removal_is_of_the_group_and_of_the_pod_that_were_named(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        kept, removed = await group(rig, identity(1)), await group(rig, identity(2))
        seen = {each.id: each for each in (await found.list()).groups}
        with pytest.raises(Conflict):
            await found.remove(structs.replace(seen[removed], identity=identity(3)))
        await found.remove(seen[removed])
        await rig.until_gone(removed)
        with pytest.raises(NotFound):
            await found.remove(seen[removed])
        assert [each.id for each in (await found.list()).groups] == [kept]


async def test_a_group_whose_end_was_asked_for_is_terminating(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        tagged = [tag(each["Key"], each["Value"]) for each in tags(identity(), more={})]
        tagged.append(tag("simulated.overspill.dev/stop-seconds", "600"))
        created = await rig.create(tag=tagged, termination_grace_period_seconds=3600)
        await rig.until_status(created, "Running")
        await rig.call("delete_container_group", container_group_id=created)
        (seen,) = (await found.list()).groups
        assert seen.terminating


async def test_lists_at_the_same_time_are_each_whole(tmp_path):
    async with emulator(tmp_path) as rig, inventory(rig) as found:
        made = {await group(rig, identity(number)) for number in range(25)}
        for listing in await asyncio.gather(*(found.list() for _ in range(4))):
            assert {each.id for each in listing.groups} == made


@pytest.mark.parametrize("there", [True, False])
async def test_a_group_that_is_listed_but_not_described_is_an_error_unless_it_is_gone(there):
    """Indexes of a cloud may disagree for a while; a list without the group would not be whole."""

    async def answer(request: web.Request) -> web.Response:
        asked = (await request.post()).get("ContainerGroupIds")
        if request.headers["x-acs-action"] == "DescribeContainerGroups":
            return web.json_response({"ContainerGroups": [], "TotalCount": 0})
        data = [{"ContainerGroupId": "eci-x", "Status": "Running"}] if there or not asked else []
        return web.json_response({"Data": data, "TotalCount": len(data)})

    async with serving(answer) as url:
        options = {"region": "cn-hangzhou", "endpoint": url, "vSwitchIds": "vsw-a"}
        async with EciInventory(cluster=OURS, options=options) as found:
            if there:
                with pytest.raises(Retry, match="does not describe"):
                    await found.list()
            else:
                assert (await found.list()).groups == []


async def test_its_calls_take_a_small_part_of_the_accounts_quota(tmp_path):
    """However fast it would like to go: agents go by shares that add up to the whole."""
    async with emulator(tmp_path) as rig:
        given = {
            "region": REGION,
            "endpoint": rig.endpoint.endpoint,
            "vSwitchIds": "vsw-a",
            "deleteRate": 40.0,
        }
        rates = EciInventory(cluster=OURS, options=given)._client.rates
        assert {name: rates[name].rate for name in ("status", "describe", "delete")} == pytest.approx(
            {"status": 16.7, "describe": 3.33, "delete": 4.0}, rel=0.01
        )


async def test_a_wrong_option_is_named():
    with pytest.raises(Misconfigured, match="backend eci"):
        EciInventory(cluster=OURS, options={"region": "cn-hangzhou", "vSwitchIds": "vsw-a", "typo": 1})
