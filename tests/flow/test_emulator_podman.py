"""The emulator over Podman: a group's containers really have the address that ECI's API tells."""

import json
import random

import aiohttp
import pytest
from emulators import Rig, container, emulator, models, until

from overspill.emulator.network import VSwitch
from overspill.emulator.networks import PodmanNetworks

pytestmark = [pytest.mark.podman, pytest.mark.timeout(120)]


@pytest.fixture
def vswitches():
    third = random.randint(0, 120)
    base = f"10.{random.randint(89, 120)}"  # 10.88 is Podman's own
    return (
        VSwitch("vsw-a", "cn-hangzhou-h", f"{base}.{2 * third}.0/24"),
        VSwitch("vsw-b", "cn-hangzhou-i", f"{base}.{2 * third + 1}.0/28"),
    )


@pytest.fixture
def over_podman(podman, vswitches):
    return {
        "engine": "podman",
        "networks": "podman",
        "engine_options": {"socket": podman.socket, "data_dir": podman.data_dir},
        "vswitches": vswitches,
    }


def shell(script: str, **fields) -> models.CreateContainerGroupRequestContainer:
    return container(
        image="localhost/busybox:1", image_pull_policy="Never", command=["/bin/sh", "-c", script], **fields
    )


async def output(rig: Rig, group: str, *command: str) -> str:
    answer = await rig.call(
        "exec_container_command",
        container_group_id=group,
        container_name="main",
        command=json.dumps(command),
        sync=True,
    )
    return answer["SyncResponse"]


async def test_real_containers_at_the_vswitches_addresses(tmp_path, podman, over_podman, vswitches):
    async with emulator(tmp_path, **over_podman) as rig:
        first, second = [
            await rig.create(
                name,
                container=[
                    shell("echo $IP; trap exit TERM; while :; do sleep 0.1; done", environment_var=[ip()])
                ],
                v_switch_id=vswitch.id,
                termination_grace_period_seconds=1,
            )
            for name, vswitch in zip(("first", "second"), vswitches, strict=True)
        ]
        for group, vswitch in ((first, vswitches[0]), (second, vswitches[1])):
            item = await rig.until_status(group, "Running")
            address = item["PodStatus"]["PodIp"]
            assert address == str(vswitch.network[1])
            assert f"inet {address}/" in await output(rig, group, "ip", "addr")
            log = await rig.call("describe_container_log", container_group_id=group, container_name="main")
            assert log["Content"] == f"{address}\n"
        started = (await rig.statuses())[first]["PodStatus"]["ContainerStatuses"][0]["State"]
        emulator_id = rig.endpoint.emulator

    async with emulator(tmp_path, **over_podman) as rig:
        item = await rig.until_status(first, "Running")
        assert item["PodStatus"]["ContainerStatuses"][0]["State"] == started
        for group in (first, second):
            await rig.call("delete_container_group", container_group_id=group)
            await rig.until_gone(group)

    async def nothing():
        return not podman.leftovers()

    await until(nothing, "Podman to have nothing")
    networks = PodmanNetworks(podman.socket, emulator=emulator_id)
    await networks.remove()
    assert emulator_id not in podman.run("network", "ls")


def ip() -> models.CreateContainerGroupRequestContainerEnvironmentVar:
    reference = models.CreateContainerGroupRequestContainerEnvironmentVarFieldRef(field_path="status.podIP")
    return models.CreateContainerGroupRequestContainerEnvironmentVar(key="IP", field_ref=reference)


async def test_stdin_and_exit_code_over_a_websocket(tmp_path, podman, over_podman):
    async with emulator(tmp_path, **over_podman) as rig:
        group = await rig.create(
            container=[shell("trap exit TERM; while :; do sleep 0.1; done")],
            termination_grace_period_seconds=1,
        )
        await rig.until_status(group, "Running")
        answer = await rig.call(
            "exec_container_command",
            container_group_id=group,
            container_name="main",
            command=json.dumps(["/bin/sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"]),
        )
        channels: dict[int, bytes] = {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(answer["WebSocketUri"]) as socket,
        ):
            await socket.send_bytes(b"\0hello\n")
            async for message in socket:
                channels[message.data[0]] = channels.get(message.data[0], b"") + message.data[1:]
        assert channels[1] == b"got hello\n"
        assert channels[2] == b"bad\n"
        assert json.loads(channels[3])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]

        async def sleeping():
            return "sleep 4321" in await output(rig, group, "ps")

        async def awake():
            return not await sleeping()

        answer = await rig.call(
            "exec_container_command",
            container_group_id=group,
            container_name="main",
            command='["sleep", "4321"]',
        )
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(answer["WebSocketUri"]),
        ):
            await until(sleeping, "the command to run")
        await until(awake, "the command to end with its client")
        await rig.call("delete_container_group", container_group_id=group)
        await rig.until_gone(group)
        await PodmanNetworks(podman.socket, emulator=rig.endpoint.emulator).remove()


async def test_a_missing_image_waits_and_says_so(tmp_path, podman, over_podman):
    async with emulator(tmp_path, **over_podman) as rig:
        group = await rig.create(container=[container(image="localhost/none:1", image_pull_policy="Never")])

        async def told():
            item = (await rig.statuses())[group]
            statuses = item["PodStatus"]["ContainerStatuses"]
            return item["Status"] == "Pending" and statuses and statuses[0]["State"].get("Waiting")

        waiting = await until(told, "the reason")
        assert waiting["Reason"] in {"ErrImageNeverPull", "ContainerCreating"}
        await rig.call("delete_container_group", container_group_id=group)
        await rig.until_gone(group)
        await PodmanNetworks(podman.socket, emulator=rig.endpoint.emulator).remove()


# --- disks and sidecars ---


def disk(name: str, volume_id: str) -> models.CreateContainerGroupRequestVolume:
    options = json.dumps({"volumeId": volume_id})
    flex = models.CreateContainerGroupRequestVolumeFlexVolume(driver="alicloud/disk", options=options)
    return models.CreateContainerGroupRequestVolume(name=name, type="FlexVolume", flex_volume=flex)


def at(path: str, volume: str = "data", **fields) -> models.CreateContainerGroupRequestContainerVolumeMount:
    return models.CreateContainerGroupRequestContainerVolumeMount(mount_path=path, name=volume, **fields)


def switches(**values: str) -> list[models.CreateContainerGroupRequestContainerEnvironmentVar]:
    variable = models.CreateContainerGroupRequestContainerEnvironmentVar
    return [variable(key=f"ECI_CONTAINER_{name.upper()}", value=value) for name, value in values.items()]


async def ended_with(rig: Rig, group: str) -> str:
    """The group's log once it has ended well; it is deleted."""
    await rig.until_status(group, "Succeeded")
    log = await rig.call("describe_container_log", container_group_id=group, container_name="main")
    await rig.call("delete_container_group", container_group_id=group)
    await rig.until_gone(group)
    return log["Content"]


async def clear(rig: Rig, podman) -> None:
    """Remove the networks, once nothing is on them: what has ended is hidden before it is gone."""

    async def nothing():
        return not podman.leftovers()

    await until(nothing, "Podman to have nothing")
    await PodmanNetworks(podman.socket, emulator=rig.endpoint.emulator).remove()


async def test_what_is_on_a_disk_is_there_for_the_next_group(tmp_path, podman, over_podman):
    async with emulator(tmp_path, **over_podman) as rig:
        once = {"restart_policy": "Never"}
        writing = shell("echo kept > /data/file", volume_mount=[at("/data")])
        group = await rig.create(container=[writing], volume=[disk("data", "d-1")], **once)
        assert await ended_with(rig, group) == ""
        reading = shell(
            "cat /data/file; ls /other; touch /below/x && echo written",
            volume_mount=[
                at("/data", read_only=True),
                at("/other", "other"),
                at("/below", sub_path="sub"),
            ],
        )
        volumes = [disk("data", "d-1"), disk("other", "d-2")]
        group = await rig.create(container=[reading], volume=volumes, **once)
        assert await ended_with(rig, group) == "kept\nwritten\n"
        await clear(rig, podman)


async def test_sidecars_start_first_end_last_and_do_not_count(tmp_path, podman, over_podman):
    say = "echo {0} starts >> /log/all; trap 'echo {0} ends >> /log/all; exit 3' TERM; while :; do sleep 0.1; done"
    of = {"volume_mount": [at("/log", "log")]}
    scratch = models.CreateContainerGroupRequestVolume(name="log", type="EmptyDirVolume")
    async with emulator(tmp_path, **over_podman) as rig:
        group = await rig.create(
            container=[
                shell("sleep 1; cat /log/all; echo main ends", **of),
                *(
                    shell(
                        say.format(name),
                        name=name,
                        environment_var=switches(
                            type="sidecar",
                            ignore_exit_code="true",
                            launch_priority=str(1000 - number),
                            exit_priority=str(number - 2),
                        ),
                        **of,
                    )
                    for number, name in enumerate(("one", "two"))
                ),
            ],
            volume=[scratch],
            restart_policy="Never",
            termination_grace_period_seconds=10,
        )
        item = await rig.until_status(group, "Succeeded")
        statuses = {
            each["Name"]: each["State"]["Terminated"] for each in item["PodStatus"]["ContainerStatuses"]
        }
        assert {name: state["ExitCode"] for name, state in statuses.items()} == dict.fromkeys(statuses, 0)
        assert list(statuses) == ["main", "one", "two"]
        assert await ended_with(rig, group) == "one starts\ntwo starts\nmain ends\n"
        await clear(rig, podman)


async def test_an_order_that_the_engine_has_not_is_refused(tmp_path, podman, over_podman):
    async with emulator(tmp_path, **over_podman) as rig:
        late = shell("true", environment_var=switches(launch_priority="5"))
        refused = await rig.refused("create_container_group", container_group_name="late", container=[late])
        assert refused.code == "NotEmulated"
        assert "ECI_CONTAINER_LAUNCH_PRIORITY" in refused.message
        await clear(rig, podman)
