"""What the emulator refuses and what it does wrong when told to: signatures, limits, faults."""

import asyncio
import json
import time

import aiohttp
import pytest
from emulators import KEY, REGION, Rig, container, emulator, models, tag, until

from overspill.backends.eci.sign import Key
from overspill.emulator.auth import AccessKey, sign_v1
from overspill.emulator.network import LIMITS, SecurityGroup, VSwitch
from overspill.emulator.quotas import Rate


@pytest.fixture
async def rig(tmp_path):
    sts = AccessKey("STS.key", "sts-secret", "the-token")
    async with emulator(tmp_path, more_keys=(sts,)) as rig:
        yield rig


def at(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


# --- signatures ---


async def test_a_signed_request_passes_once(rig: Rig):
    nonce = {"x-acs-signature-nonce": "the-same"}
    assert (await rig.raw("DescribeRegions", headers=nonce))[0] == 200
    status, body = await rig.raw("DescribeRegions", headers=nonce)
    assert (status, body["Code"]) == (400, "SignatureNonceUsed")
    assert body["RequestId"]


@pytest.mark.parametrize(
    ("key", "headers", "status", "code"),
    [
        (Key(KEY.id, "another"), {}, 400, "SignatureDoesNotMatch"),
        (Key("nobody", "x"), {}, 404, "InvalidAccessKeyId.NotFound"),
        (None, {"x-acs-date": at(-100_000)}, 400, "InvalidTimeStamp.Expired"),
        (None, {"x-acs-date": at(100_000)}, 400, "InvalidTimeStamp.Expired"),
        (None, {"x-acs-date": "yesterday"}, 400, "InvalidTimeStamp.Format"),
        (None, {"x-acs-version": "2014-05-26"}, 400, "InvalidVersion"),
        (Key("STS.key", "sts-secret"), {}, 400, "MissingSecurityToken"),
        (
            Key("STS.key", "sts-secret"),
            {"x-acs-security-token": "another"},
            400,
            "InvalidSecurityToken.Malformed",
        ),
    ],
)
async def test_wrong_signatures(rig: Rig, key, headers, status, code):
    got, body = await rig.raw("DescribeRegions", key=key, headers=headers)
    assert (got, body["Code"]) == (status, code)
    assert set(body) == {"RequestId", "HostId", "Code", "Message", "Recommend"}


async def test_a_token_of_sts_passes(rig: Rig):
    headers = {"x-acs-security-token": "the-token", "x-acs-accesskey-id": "STS.key"}
    assert (await rig.raw("DescribeRegions", key=Key("STS.key", "sts-secret"), headers=headers))[0] == 200


async def test_changed_parameters_are_noticed(rig: Rig):
    query = {"Action": "DescribeRegions", "Version": "2018-08-08", "Timestamp": at(0)}
    query |= {"SignatureNonce": "1", "SignatureMethod": "HMAC-SHA1", "AccessKeyId": KEY.id}
    query["Signature"] = sign_v1("POST", query, secret=KEY.secret)
    assert (await rig.post({}, query | {"RegionId": REGION}))[1]["Code"] == "SignatureDoesNotMatch"
    assert (await rig.post({}, query))[0] == 200


async def test_unsigned_unknown_and_elsewhere(rig: Rig):
    assert (await rig.post({}, {"Action": "DescribeRegions"}))[1]["Code"] == "MissingSignature"
    assert (await rig.raw("StopContainerGroup"))[0] == 404
    status, body = await rig.raw("ListUsage", RegionId="us-west-1")
    assert (status, body["Code"]) == (404, "InvalidRegionId.NotFound")


# --- limits ---


async def test_addresses_run_out_and_come_back(tmp_path):
    vswitches = (
        VSwitch("vsw-s", "cn-hangzhou-h", "10.231.0.0/29"),
        VSwitch("vsw-t", "cn-hangzhou-i", "10.231.0.8/29"),
    )
    async with emulator(tmp_path, vswitches=vswitches) as rig:
        groups = [await rig.create(v_switch_id="vsw-s,vsw-t") for _ in range(8)]
        addresses = [item["PodStatus"]["PodIp"] for item in (await rig.statuses()).values()]
        assert addresses == [f"10.231.0.{n}" for n in (1, 2, 3, 4, 9, 10, 11, 12)]
        fields = {"container_group_name": "ninth", "container": [container()], "v_switch_id": "vsw-s"}
        error = await rig.refused("create_container_group", **fields)
        assert (error.status_code, error.code) == (403, "InvalidVSwitchId.IpNotEnough")
        await rig.call("delete_container_group", container_group_id=groups[1])
        await rig.until_gone(groups[1])
        again = await rig.create("again", v_switch_id="vsw-s")
        assert (await rig.statuses())[again]["PodStatus"]["PodIp"] == "10.231.0.2"


async def test_quota_of_vcpu(tmp_path):
    async with emulator(tmp_path, max_cpu=1.0) as rig:
        first = await rig.create(cpu=1.0, memory=2.0)
        fields = {"container_group_name": "more", "container": [container()]}
        error = await rig.refused("create_container_group", **fields)
        assert (error.status_code, error.code) == (403, "QuotaExceeded")
        await rig.call("delete_container_group", container_group_id=first)
        await rig.until_gone(first)
        await rig.create("more")


async def test_stock_by_zone_and_specification(tmp_path):
    async with emulator(tmp_path, stock={("cn-hangzhou-h", "2.0-4.0Gi"): 1}) as rig:
        await rig.create(cpu=2.0, memory=4.0, v_switch_id="vsw-a")
        fields = {"container_group_name": "second", "container": [container()]}
        error = await rig.refused(
            "create_container_group", cpu=2.0, memory=4.0, v_switch_id="vsw-a", **fields
        )
        assert (error.status_code, error.code) == (403, "OperationDenied.NoStock")
        await rig.create("other-zone", cpu=2.0, memory=4.0, v_switch_id="vsw-a,vsw-b")
        await rig.create("other-spec", instance_type="2-4Gi,4-8Gi", v_switch_id="vsw-a")
        specs = {d["ContainerGroupName"]: (d["ZoneId"], d["InstanceType"]) for d in await rig.details()}
        assert specs["other-zone"] == ("cn-hangzhou-i", "2.0-4.0Gi")
        assert specs["other-spec"] == ("cn-hangzhou-h", "4.0-8.0Gi")


async def test_throttling_says_when_to_come_back(tmp_path):
    async with emulator(tmp_path, rates={"DescribeRegions": Rate(2, 0.001)}) as rig:
        assert [(await rig.raw("DescribeRegions"))[0] for _ in range(3)] == [200, 200, 400]
        error = await rig.refused("describe_regions")
        assert error.code == "Throttling"
        assert 900_000 < error.retry_after <= 1_000_000


async def test_security_group_is_full(tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "basic", 1)
    async with emulator(tmp_path, security_groups=(SecurityGroup("sg-1", "basic"),)) as rig:
        await rig.create()
        fields = {"container_group_name": "more", "container": [container()]}
        error = await rig.refused("create_container_group", **fields)
        assert error.code == "SecurityGroupInstanceLimitExceed"


# --- idempotency and faults ---


async def test_a_lost_reply_never_makes_a_second_group(rig: Rig):
    await rig.admin(
        "POST", "/faults", {"kind": "lost-reply", "actions": ["CreateContainerGroup"], "count": 1}
    )
    fields = {"container_group_name": "once", "container": [container()], "client_token": "uid-0"}
    with pytest.raises(Exception, match=r"RemoteDisconnected|Connection aborted"):
        await rig.call("create_container_group", **fields)
    [there] = await rig.statuses()
    assert (await rig.call("create_container_group", **fields))["ContainerGroupId"] == there
    assert list(await rig.statuses()) == [there]
    error = await rig.refused("create_container_group", **{**fields, "container_group_name": "other"})
    assert error.code == "IdempotentParameterMismatch"


async def test_duplicate_delivery(rig: Rig):
    await rig.admin("POST", "/faults", {"kind": "duplicate", "actions": ["CreateContainerGroup"]})
    await rig.create("with-token", client_token="t")
    assert len(await rig.statuses()) == 1
    await rig.create("without-token")
    assert len(await rig.statuses()) == 3


async def test_the_client_token_works_at_the_same_time(rig: Rig):
    ids = await asyncio.gather(*(rig.create("race", client_token="same") for _ in range(5)))
    assert len(set(ids)) == 1


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "error"}, 500, "InternalError"),
        ({"kind": "error", "code": "ServiceUnavailable"}, 503, "ServiceUnavailable"),
        ({"kind": "throttle"}, 400, "Throttling"),
        ({"kind": "clock-skew", "seconds": 1000}, 400, "InvalidTimeStamp.Expired"),
    ],
)
async def test_faults_end_when_cleared(rig: Rig, fault, status, code):
    number = (await rig.admin("POST", "/faults", fault))["number"]
    got, body = await rig.raw("DescribeRegions")
    assert (got, body["Code"]) == (status, code)
    await rig.admin("DELETE", f"/faults?number={number}")
    assert (await rig.raw("DescribeRegions"))[0] == 200


async def test_told_to_have_no_stock_and_no_addresses(rig: Rig):
    await rig.admin("POST", "/faults", {"kind": "no-stock", "zone": "cn-hangzhou-h"})
    fields = {"container_group_name": "none", "container": [container()]}
    assert (await rig.refused("create_container_group", **fields)).code == "OperationDenied.NoStock"
    group = await rig.create(v_switch_id="vsw-a,vsw-b")
    assert (await rig.statuses())[group]["PodStatus"]["PodIp"].startswith("10.230.1.")
    await rig.admin("POST", "/faults", {"kind": "no-addresses", "vswitch": "vsw-b"})
    error = await rig.refused("create_container_group", **fields, v_switch_id="vsw-b")
    assert error.code == "InvalidVSwitchId.IpNotEnough"


async def test_a_request_for_many_vswitches_meets_a_fault_once(rig: Rig):
    create = {"kind": "no-stock", "actions": ["CreateContainerGroup"], "count": 1}
    for fault in (create, {"kind": "no-addresses", "actions": ["DeleteContainerGroup"]}):
        await rig.admin("POST", "/faults", fault)
    fields = {"container_group_name": "none", "container": [container()], "v_switch_id": "vsw-a,vsw-b"}
    assert (await rig.refused("create_container_group", **fields)).code == "OperationDenied.NoStock"
    await rig.create(v_switch_id="vsw-a,vsw-b")
    assert [each["met"] for each in await rig.admin("GET", "/faults")] == [1, 0]


async def test_scheduling_can_fail_and_costs_nothing(rig: Rig):
    await rig.admin("POST", "/faults", {"kind": "schedule-failure", "count": 1})
    group = await rig.create()
    item = await rig.until_status(group, "ScheduleFailed")
    condition = next(c for c in item["PodStatus"]["Conditions"] if c["type"] == "ContainerInstanceCreated")
    assert (condition["status"], condition["Reason"]) == ("False", "NoStock")
    assert (await rig.admin("GET", "/bill"))["lines"] == []


async def test_a_spot_group_is_taken_back_after_its_notice(rig: Rig):
    group = await rig.create(spot_strategy="SpotAsPriceGo")
    await rig.until_status(group, "Running")
    await rig.admin("POST", f"/spot/{group}")
    item = await rig.until_status(group, "Expired")
    assert item["PodStatus"]["Phase"] == "Failed"
    notice = [c for c in item["PodStatus"]["Conditions"] if c["type"] == "ContainerInstanceExpired"]
    assert [c["Reason"] for c in notice] == ["SpotToBeReleased"]
    [detail] = await rig.details()
    assert detail["ExpiredTime"]
    told = [event["Reason"] for event in detail["Events"]]
    assert told.index("SpotToBeReleased") < told.index("SpotReleased")


async def test_the_engine_fails_a_group_by_name(rig: Rig):
    group = await rig.create(tag=[tag("simulated.overspill.dev/nonsense", "1")])
    await rig.until_status(group, "Failed")
    [detail] = await rig.details()
    assert "nonsense" in detail["Events"][-1]["Message"]


async def test_of_a_log_that_is_too_long_the_end_is_given(rig: Rig, monkeypatch):
    for module in ("streams", "runtime_actions"):
        monkeypatch.setattr(f"overspill.emulator.{module}.MOST_LOG_BYTES", 8)
    group = await rig.create(tag=[tag("simulated.overspill.dev/output", "one\ntwo\nthree")])
    await rig.until_status(group, "Running")
    asked = {"container_group_id": group, "container_name": "main"}
    assert (await rig.call("describe_container_log", **asked))["Content"] == "o\nthree\n"
    assert (await rig.call("describe_container_log", **asked, limit_bytes=5))["Content"] == "one\nt"


# --- the bill ---


async def test_a_group_is_billed_while_it_exists(rig: Rig):
    leaked = await rig.create("leaked", cpu=1.0, memory=2.0)
    ended = await rig.create("ended")
    await rig.until_status(leaked, "Running")
    await rig.call("delete_container_group", container_group_id=ended)
    await rig.until_gone(ended)
    bill = await rig.admin("GET", "/bill")
    lines = {line["name"]: line for line in bill["lines"]}
    assert lines["leaked"]["ended"] is None
    assert lines["ended"]["ended"] >= lines["ended"]["began"]
    assert bill["total"]["running"] == 1
    assert bill["total"]["per_hour"] == pytest.approx(3600 * (0.000049 + 2 * 0.00000613))
    await rig.call("delete_container_group", container_group_id=leaked)
    await rig.until_gone(leaked)
    assert (await rig.admin("GET", "/bill"))["total"]["running"] == 0


async def test_the_admin_port_refuses_browsers(rig: Rig):
    async with aiohttp.ClientSession() as session:
        for headers in ({"Origin": "https://example.com"}, {"Host": "example.com"}):
            async with session.get(rig.endpoint.admin + "/status", headers=headers) as answer:
                assert answer.status == 403


async def test_status_counts(rig: Rig):
    group = await rig.create()
    await rig.until_status(group, "Running")
    status = await rig.admin("GET", "/status")
    assert status["groups"] == {"Running": 1}
    assert status["vSwitches"][0]["free"] == 251
    assert status["calls"]["CreateContainerGroup"] == 1
    assert KEY.secret not in json.dumps(status)


async def test_a_large_request_passes(rig: Rig):
    """The SDK writes every parameter into the query: 20 containers with their environment make 100 KB."""
    variables = [
        models.CreateContainerGroupRequestContainerEnvironmentVar(key=f"V{n}", value="x" * 200)
        for n in range(20)
    ]
    many = [container(f"c{n}", environment_var=variables, cpu=0.0, memory=0.0) for n in range(20)]
    group = await rig.create(container=many)

    async def running():
        return (await rig.statuses())[group]["Status"] == "Running"

    await until(running, "the large group")
