"""The official SDK drives the emulator through the life of container groups."""

import asyncio
import base64
import json
import ssl
import urllib.error
import urllib.request

import aiohttp
import pytest
from alibabacloud_eci20180808.client import Client
from alibabacloud_tea_openapi.models import Config
from emulators import KEY, REGION, VSWITCHES, Rig, container, emulator, models, tag, until

from overspill.pki import issue, new_authority


@pytest.fixture
async def rig(tmp_path):
    async with emulator(tmp_path) as rig:
        yield rig


async def test_whole_life(rig: Rig):
    group = await rig.create(
        "whole-life",
        container=[container(command=["/bin/sh", "-c"], arg=["sleep 100"], cpu=0.3, memory=0.5)],
        tag=[tag("team", "a"), tag("simulated.overspill.dev/output", "hello world")],
        v_switch_id="vsw-b",
        security_group_id="sg-1",
    )
    item = await rig.until_status(group, "Running")
    pod = item["PodStatus"]
    assert pod["Phase"] == "Running"
    assert pod["PodIp"].startswith("10.230.1.")
    [status] = pod["ContainerStatuses"]
    assert status["Ready"] is True
    assert status["State"]["Running"]["StartedAtstartedAt"].endswith("Z")
    conditions = {c["type"]: c["status"] for c in pod["Conditions"]}
    assert conditions["Ready"] == conditions["ContainerInstanceCreated"] == "True"

    [detail] = await rig.details(container_group_ids=json.dumps([group]))
    assert (detail["Cpu"], detail["Memory"], detail["InstanceType"]) == (0.5, 1.0, "0.5-1.0Gi")
    assert detail["ZoneId"] == "cn-hangzhou-i"
    assert detail["IntranetIp"] == pod["PodIp"]
    assert detail["Containers"][0]["Commands"] == ["/bin/sh", "-c"]
    assert detail["Containers"][0]["CurrentState"]["State"] == "Running"
    assert {"Key": "team", "Value": "a"} in detail["Tags"]

    log = await rig.call("describe_container_log", container_group_id=group, container_name="main")
    assert "hello world" in log["Content"]
    echoed = await rig.call(
        "exec_container_command",
        container_group_id=group,
        container_name="main",
        command='["echo", "from inside"]',
        sync=True,
    )
    assert echoed["SyncResponse"] == "from inside\n"

    events = await rig.call("describe_container_group_events", container_group_ids=json.dumps([group]))
    told = {event["Reason"] for event in events["Data"][0]["Events"]}
    assert {"SuccessfulScheduled", "Started"} <= told
    assert events["Data"][0]["Events"][0]["involvedObject"]["Uid"] == group

    await rig.call("delete_container_group", container_group_id=group)
    await rig.until_gone(group)
    assert (await rig.refused("delete_container_group", container_group_id=group)).status_code == 404


async def test_metrics_of_a_running_group(rig: Rig):
    group = await rig.create(tag=[tag("simulated.overspill.dev/memory", "64Mi")])
    await rig.until_status(group, "Running")

    async def records():
        answer = await rig.call(
            "describe_multi_container_group_metric",
            container_group_ids=json.dumps([group]),
            metric_type="summary",
        )
        return answer["MonitorDatas"][0]["Records"]

    [record] = await until(records, "a sample")
    assert record["CPU"]["Limit"] == 250
    assert record["Memory"]["WorkingSet"] == sum(c["Memory"]["WorkingSet"] for c in record["Containers"])
    assert [c["Name"] for c in record["Containers"]] == ["main"]
    history = await rig.call("describe_container_group_metric", container_group_id=group, period="15")
    assert history["Records"][0]["Timestamp"] == record["Timestamp"]


async def test_ends_by_exit_code(rig: Rig):
    run = [tag("simulated.overspill.dev/run-seconds", "0.05")]
    good = await rig.create("good", restart_policy="Never", tag=run)
    bad = await rig.create(
        "bad", restart_policy="Never", tag=[*run, tag("simulated.overspill.dev/exit-code", "3")]
    )
    assert (await rig.until_status(good, "Succeeded", "Failed"))["PodStatus"]["Phase"] == "Succeeded"
    item = await rig.until_status(bad, "Succeeded", "Failed")
    assert item["Status"] == "Failed"
    assert item["PodStatus"]["ContainerStatuses"][0]["State"]["Terminated"]["ExitCode"] == 3
    by_id = {detail["ContainerGroupId"]: detail for detail in await rig.details()}
    assert by_id[good]["SucceededTime"]
    assert by_id[bad]["FailedTime"]
    assert by_id[bad]["Containers"][0]["CurrentState"]["ExitCode"] == 3


async def test_a_crashing_container_keeps_its_group_running(rig: Rig):
    group = await rig.create(
        tag=[
            tag("simulated.overspill.dev/run-seconds", "0.05"),
            tag("simulated.overspill.dev/exit-code", "1"),
        ]
    )

    async def restarted():
        item = (await rig.statuses())[group]
        statuses = item["PodStatus"]["ContainerStatuses"]
        waiting = statuses and "Waiting" in statuses[0]["State"]
        return item if waiting and item["Status"] == "Running" else None

    item = await until(restarted, "a back-off")
    assert item["PodStatus"]["ContainerStatuses"][0]["LastState"]["Terminated"]["ExitCode"] == 1
    assert item["PodStatus"]["ContainerStatuses"][0]["Ready"] is False


async def test_init_containers_show_only_in_details(rig: Rig):
    init = models.CreateContainerGroupRequestInitContainer(name="first", image="busybox:1.36", arg=["x"])
    group = await rig.create(init_container=[init])
    item = await rig.until_status(group, "Running")
    assert [c["Name"] for c in item["PodStatus"]["ContainerStatuses"]] == ["main"]
    [detail] = await rig.details()
    assert detail["InitContainers"][0]["CurrentState"]["ExitCode"] == 0
    assert detail["InitContainers"][0]["Args"] == ["x"]


async def test_volumes_come_back_flattened_and_without_contents(rig: Rig):
    secret = base64.b64encode(b"the secret of the volume").decode()
    files = models.CreateContainerGroupRequestVolumeConfigFileVolume(
        config_file_to_path=[
            models.CreateContainerGroupRequestVolumeConfigFileVolumeConfigFileToPath(
                path="a.txt", content=secret, mode=256
            )
        ],
        default_mode=420,
    )
    scratch = models.CreateContainerGroupRequestVolumeEmptyDirVolume(medium="Memory", size_limit="16Mi")
    mounts = [
        models.CreateContainerGroupRequestContainerVolumeMount(name=n, mount_path=f"/{n}")
        for n in ("files", "scratch")
    ]
    group = await rig.create(
        container=[container(volume_mount=mounts)],
        volume=[
            models.CreateContainerGroupRequestVolume(
                name="files", type="ConfigFileVolume", config_file_volume=files
            ),
            models.CreateContainerGroupRequestVolume(
                name="scratch", type="EmptyDirVolume", empty_dir_volume=scratch
            ),
        ],
    )
    await rig.until_status(group, "Running")
    [detail] = await rig.details()
    by_name = {volume["Name"]: volume for volume in detail["Volumes"]}
    assert by_name["files"]["ConfigFileVolumeConfigFileToPaths"] == [{"Path": "a.txt"}]
    assert by_name["scratch"]["EmptyDirVolumeMedium"] == "Memory"
    assert secret not in json.dumps(detail)


@pytest.mark.parametrize("hidden", [True, False])
async def test_variables_are_shown_unless_they_are_to_be_hidden(rig: Rig, hidden):
    variable = models.CreateContainerGroupRequestContainerEnvironmentVar(key="A", value="b")
    await rig.create(container=[container(environment_var=[variable], environment_var_hide=hidden)])
    [detail] = await rig.details()
    told = [] if hidden else [{"Key": "A", "Value": "b"}]
    assert detail["Containers"][0]["EnvironmentVars"] == told


async def test_a_group_is_terminating_while_its_containers_end(rig: Rig):
    stubborn = [tag("simulated.overspill.dev/stop-seconds", "86400")]
    group = await rig.create(tag=stubborn, termination_grace_period_seconds=3)
    await rig.until_status(group, "Running")
    await rig.call("delete_container_group", container_group_id=group)
    assert (await rig.statuses())[group]["Status"] == "Terminating"
    await rig.call("delete_container_group", container_group_id=group)
    assert (await rig.admin("GET", "/bill"))["total"]["running"] == 1
    await rig.until_gone(group)
    assert (await rig.admin("GET", "/bill"))["total"]["running"] == 0


async def test_an_engine_that_cannot_tell_is_asked_again(rig: Rig):
    group = await rig.create(tag=[tag("simulated.overspill.dev/lost-replies", "1")])
    await rig.until_status(group, "Running")
    await rig.call("delete_container_group", container_group_id=group)
    await rig.until_gone(group)


async def test_restart_begins_the_containers_anew(rig: Rig):
    group = await rig.create()
    before = await rig.until_status(group, "Running")
    await rig.call("restart_container_group", container_group_id=group)

    async def again():
        item = (await rig.statuses())[group]
        [event] = (await rig.call("describe_container_group_events"))["Data"]
        begun = [e["Count"] for e in event["Events"] if e["Reason"] == "Started"]
        return item if item["Status"] == "Running" and begun == [2] else None

    item = await until(again, "a second start")
    assert item["PodStatus"]["PodIp"] == before["PodStatus"]["PodIp"]


async def test_update_changes_the_image(rig: Rig):
    group = await rig.create()
    await rig.until_status(group, "Running")
    await rig.call(
        "update_container_group",
        container_group_id=group,
        update_type="IncrementalUpdate",
        container=[
            models.UpdateContainerGroupRequestContainer(name="main", image="busybox:2", cpu=0.25, memory=0.5)
        ],
    )

    async def updated():
        item = (await rig.statuses())[group]
        running = item["Status"] == "Running"
        return running and item["PodStatus"]["ContainerStatuses"][0]["Image"] == "busybox:2"

    await until(updated, "the new image")


async def test_an_update_changes_what_it_names_alone(rig: Rig):
    group = await rig.create(tag=[tag("team", "a")])
    await rig.until_status(group, "Running")
    await rig.call(
        "tag_resources",
        resource_type="ContainerGroup",
        resource_id=[group],
        tag=[models.TagResourcesRequestTag(key="late", value="1")],
    )

    async def update(**fields):
        await rig.call("update_container_group", container_group_id=group, **fields)
        [detail] = await rig.details()
        return {each["Key"]: each["Value"] for each in detail["Tags"]}

    # Of the size that it has.
    assert await update(cpu=0.25, memory=0.5) == {"team": "a", "late": "1"}
    await rig.until_status(group, "Running")
    assert await update(tag=[models.UpdateContainerGroupRequestTag(key="new", value="2")]) == {"new": "2"}
    error = await rig.refused("update_container_group", container_group_id=group, cpu=1.0, memory=2.0)
    assert error.code == "NotEmulated"


async def test_pages_cover_every_group_once(rig: Rig):
    created = {await rig.create(f"page-{number}") for number in range(23)}
    seen: list[str] = []
    token = None
    while True:
        answer = await rig.call("describe_container_groups", limit=7, next_token=token)
        assert answer["TotalCount"] == 23
        seen += [detail["ContainerGroupId"] for detail in answer["ContainerGroups"]]
        token = answer.get("NextToken")
        if not token:
            break
    assert len(seen) == 23
    assert set(seen) == created
    assert (await rig.refused("describe_container_groups", limit=21)).code == "InvalidParameter.ValueExceeded"
    assert (await rig.refused("describe_container_groups", next_token="nonsense")).code == "InvalidNextToken"


async def test_filters(rig: Rig):
    a = await rig.create("one", tag=[tag("team", "a")])
    b = await rig.create("two", tag=[tag("team", "b")], v_switch_id="vsw-b")
    wanted = [models.DescribeContainerGroupStatusRequestTag(key="team", value="a")]
    assert set(await rig.statuses(tag=wanted)) == {a}
    assert set(await rig.statuses(v_switch_id="vsw-b")) == {b}
    assert set(await rig.statuses(since_second=60)) == {a, b}
    [detail] = await rig.details(container_group_name="two")
    assert detail["ContainerGroupId"] == b


async def test_exec_over_a_websocket(rig: Rig):
    group = await rig.create()
    await rig.until_status(group, "Running")
    answer = await rig.call(
        "exec_container_command",
        container_group_id=group,
        container_name="main",
        command='["echo", "over the wire"]',
    )
    output, ends = b"", []
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(answer["WebSocketUri"]) as socket:
            async for message in socket:
                if message.data[0] == 3:
                    ends.append(json.loads(message.data[1:])["status"])
                else:
                    output += message.data[1:]
        assert (output, ends) == (b"over the wire\n", ["Success"])
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(answer["WebSocketUri"])
    assert refused.value.status == 403


async def test_region_stock_and_price(rig: Rig):
    [region] = (await rig.call("describe_regions"))["Regions"]
    assert region["Zones"] == [vswitch.zone for vswitch in VSWITCHES]
    quote = await rig.call("describe_container_group_price", cpu=2.0, memory=4.0)
    assert quote["PriceInfo"]["Price"]["TradePrice"] == pytest.approx(0.00012252)
    await rig.create()
    assert (await rig.call("list_usage"))["Attributes"]["UsedCpu"] == 0.25
    destination = models.DescribeAvailableResourceRequestDestinationResource(
        category="InstanceType", value="2-4Gi"
    )
    answer = await rig.call("describe_available_resource", destination_resource=destination)
    zone = answer["AvailableZones"]["AvailableZone"][0]
    [resource] = zone["AvailableResources"]["AvailableResource"][0]["SupportedResources"]["SupportedResource"]
    assert resource == {"Value": "2.0-4.0Gi", "StatusCategory": "WithStock"}


async def test_tags_and_image_caches(rig: Rig):
    group = await rig.create()
    await rig.call(
        "tag_resources",
        resource_type="ContainerGroup",
        resource_id=[group],
        tag=[models.TagResourcesRequestTag(key="late", value="1")],
    )
    listed = await rig.call("list_tag_resources", resource_type="ContainerGroup", resource_id=[group])
    assert [(t["TagKey"], t["TagValue"]) for t in listed["TagResources"]] == [("late", "1")]
    cache = await rig.call("create_image_cache", image_cache_name="warm", image=["busybox:1.36"])
    found = await rig.call("describe_image_caches", match_image=["busybox:1.36"])
    assert [c["Status"] for c in found["ImageCaches"]] == ["Ready"]
    matched = await rig.create("warm", auto_match_image_cache=True)
    [detail] = await rig.details(container_group_ids=json.dumps([matched]))
    assert cache["ImageCacheId"] in detail["Events"][0]["Message"]
    assert (
        await rig.refused(
            "create_container_group",
            container_group_name="cold",
            container=[container()],
            image_snapshot_id="imc-none",
        )
    ).code == ("ImageSnapshot.NotFound")


def disk(size: str) -> models.CreateContainerGroupRequestVolume:
    """A disk that is made for its group."""
    flex = models.CreateContainerGroupRequestVolumeFlexVolume(
        driver="alicloud/disk", options=json.dumps({"volumeSize": size})
    )
    return models.CreateContainerGroupRequestVolume(name="disk", type="FlexVolume", flex_volume=flex)


@pytest.mark.parametrize("size", ["20Gi", "nan", "inf", "-1", "", "9" * 5000])
async def test_a_disk_of_no_size_is_refused_by_name(rig: Rig, size):
    error = await rig.refused(
        "create_container_group", container_group_name="refused", container=[container()], volume=[disk(size)]
    )
    assert error.code == "InvalidParameter"
    assert "volumeSize" in error.message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"container_group_name": "UPPER"}, "InvalidParameter"),
        ({"container": [container(f"c{n}") for n in range(21)]}, "InvalidParameter.ValueExceeded"),
        ({"container": [container("same"), container("same")]}, "InvalidParameter.DuplicatedName"),
        ({"container": [models.CreateContainerGroupRequestContainer(name="x")]}, "MissingParameter"),
        ({"v_switch_id": "vsw-none"}, "InvalidVSwitchId.NotFound"),
        ({"security_group_id": "sg-none"}, "InvalidSecurityGroupId.NotFound"),
        ({"zone_id": "cn-hangzhou-z"}, "OperationDenied.VswZoneMisMatch"),
        ({"cpu": 65.0, "memory": 128.0}, "InvalidParameter.CPU.Memory"),
        ({"auto_create_eip": True}, "NotEmulated"),
        ({"container": [container(security_context_privileged=True)]}, "NotEmulated"),
        ({"dry_run": True}, "DryRunOperation"),
    ],
)
async def test_refusals_create_nothing(rig: Rig, fields, code):
    given = {"container_group_name": "refused", "container": [container()], **fields}
    error = await rig.refused("create_container_group", **given)
    assert error.code == code
    assert error.request_id
    assert await rig.statuses() == {}


async def test_older_clients_sign_with_hmac_sha1(rig: Rig):
    config = Config(
        access_key_id=KEY.id,
        access_key_secret=KEY.secret,
        region_id=REGION,
        endpoint=rig.host,
        protocol="HTTP",
        signature_algorithm="v2",
    )
    rig.sdk = Client(config)
    group = await rig.create(tag=[tag("text", "a b/c*~+&=")])
    [detail] = await rig.details()
    assert (detail["ContainerGroupId"], detail["Tags"]) == (group, [{"Key": "text", "Value": "a b/c*~+&="}])


async def test_https(tmp_path):
    authority = new_authority("test")
    served = issue(authority, common_name="emulator", hosts=["127.0.0.1"], server=True)
    for name, text in (("ca", authority.certificate), ("cert", served.certificate), ("key", served.key)):
        (tmp_path / name).write_bytes(text)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    async with emulator(tmp_path / "state", tls=(tmp_path / "cert", tmp_path / "key")) as rig:
        assert rig.endpoint.endpoint.startswith("https://")
        status, answer = await asyncio.to_thread(ask, rig.endpoint.endpoint, trusted)
    assert (status, answer["Code"]) == (400, "MissingSignature")


def ask(url: str, trusted: ssl.SSLContext) -> tuple[int, dict]:
    """An unsigned request on a connection of its own."""
    try:
        urllib.request.urlopen(url, context=trusted)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    raise AssertionError("an unsigned request was served")
