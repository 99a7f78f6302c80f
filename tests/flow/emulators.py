"""An emulator in this process on a real socket, and the official SDK to call it with."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from alibabacloud_eci20180808 import models
from alibabacloud_eci20180808.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_tea_openapi.models import Config

from overspill.backends.eci.sign import Key, authorization
from overspill.emulator.auth import AccessKey
from overspill.emulator.cloud import Timings
from overspill.emulator.network import SecurityGroup, VSwitch
from overspill.emulator.run import Endpoint, Settings, serve
from secret_scan import SECRETS

KEY = AccessKey("test-key", "test-secret")
SECRETS.add(KEY.secret)
REGION = "cn-hangzhou"
VSWITCHES = (
    VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/24"),
    VSwitch("vsw-b", "cn-hangzhou-i", "10.230.1.0/24"),
)
DEADLINE = 30.0


def container(name: str = "main", **fields: Any) -> models.CreateContainerGroupRequestContainer:
    """A container of a request."""
    given = {"name": name, "image": "busybox:1.36", "cpu": 0.25, "memory": 0.5, **fields}
    return models.CreateContainerGroupRequestContainer(**given)


def tag(key: str, value: str) -> models.CreateContainerGroupRequestTag:
    """A tag of a request; below `simulated.overspill.dev/` it tells the engine's container what to do."""
    return models.CreateContainerGroupRequestTag(key=key, value=value)


class Rig:
    """A running emulator and its client."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.host = endpoint.endpoint.removeprefix("http://")
        self.sdk = Client(
            Config(
                access_key_id=KEY.id,
                access_key_secret=KEY.secret,
                region_id=REGION,
                endpoint=self.host,
                protocol="HTTP",
            )
        )

    async def call(self, action: str, **fields: Any) -> dict[str, Any]:
        """One call by the SDK: `create_container_group`; the answer's body as it was sent."""
        kind = "".join(part.capitalize() for part in action.split("_")) + "Request"
        request = getattr(models, kind)(region_id=REGION, **fields)
        response = await asyncio.to_thread(getattr(self.sdk, action), request)
        return response.body.to_map()

    async def refused(self, action: str, **fields: Any) -> AlibabaCloudException:
        """The SDK's error of a call that must fail."""
        try:
            await self.call(action, **fields)
        except AlibabaCloudException as error:
            return error
        raise AssertionError(f"{action} was not refused")

    async def create(self, name: str = "demo", **fields: Any) -> str:
        """A group of one container; its id."""
        given = {"container_group_name": name, "container": [container()], **fields}
        return (await self.call("create_container_group", **given))["ContainerGroupId"]

    async def statuses(self, **fields: Any) -> dict[str, dict[str, Any]]:
        """What DescribeContainerGroupStatus tells, by id."""
        answer = await self.call("describe_container_group_status", **fields)
        return {item["ContainerGroupId"]: item for item in answer["Data"]}

    async def details(self, **fields: Any) -> list[dict[str, Any]]:
        """What DescribeContainerGroups tells."""
        return (await self.call("describe_container_groups", **fields))["ContainerGroups"]

    async def until_status(self, group: str, *wanted: str) -> dict[str, Any]:
        """The group's status item, once it is as wanted."""

        async def look() -> dict[str, Any] | None:
            found = (await self.statuses()).get(group)
            return found if found and found["Status"] in wanted else None

        return await until(look, f"{group} to be {' or '.join(wanted)}")

    async def until_gone(self, group: str) -> None:
        """Return once no listing has the group."""

        async def look() -> bool:
            return group not in await self.statuses()

        await until(look, f"{group} to be gone")

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the admin port."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.endpoint.admin + path, json=body) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def raw(
        self, action: str, *, key: Key | None = None, headers: dict[str, str] | None = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        """A call signed by hand, with headers of the caller's choice signed in."""
        query = {"RegionId": REGION, **query}
        signed = {
            "host": self.host,
            "x-acs-action": action,
            "x-acs-version": "2018-08-08",
            "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            **(headers or {}),
        }
        signature = authorization(
            "POST",
            signed,
            digest=signed["x-acs-content-sha256"],
            key=key or Key(KEY.id, KEY.secret),
            query=query,
        )
        return await self.post({**signed, "Authorization": signature}, query)

    async def post(self, headers: dict[str, str], query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A request as it is; its status and body."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.endpoint.endpoint + "/", headers=headers, params=query) as answer,
        ):
            return answer.status, await answer.json()


async def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` returns once that is true, asked again until a deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := await look():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE:.0f} s in vain for {what}")


def settings(state: Path, **changes: Any) -> Settings:
    """Small, fast, with every limit lifted that a test does not set."""
    given: dict[str, Any] = {
        "state": state,
        "region": REGION,
        "vswitches": VSWITCHES,
        "security_groups": (SecurityGroup("sg-1", "enterprise"),),
        "access_key": KEY,
        "timings": Timings(scheduling=0.0, image_cache=0.0, spot_notice=0.3),
        "rates": {},
        **changes,
    }
    return Settings(**given)


@contextlib.asynccontextmanager
async def emulator(state: Path, **changes: Any) -> AsyncIterator[Rig]:
    """An emulator for the time of the block."""
    ready: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve(settings(state, **changes), ready=ready.set_result))
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            yield Rig(ready.result())
        serving.cancel()
