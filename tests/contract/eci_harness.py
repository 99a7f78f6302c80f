"""The `eci` backend under test: the store is an emulator of its own, over the simulated engine.

The engine's containers are told what to do by tags of their group, of which a pod may set three.
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from emulated import KEY, running_emulator
from harness import CLUSTER, NODE, Play

from overspill.backends.base import Backend
from overspill.backends.eci.backend import EciBackend
from overspill.backends.simulated.script import PREFIX
from overspill.model.work import Container, Port

MOST_TAGS = 3


class EciHarness:
    """An emulator for as long as a backend is connected."""

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._faults = ""

    @asynccontextmanager
    async def connect(self, *, node: str = NODE) -> AsyncIterator[Backend]:
        async with contextlib.AsyncExitStack() as stack:
            if not self._options:
                state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                endpoint = await stack.enter_async_context(running_emulator(state))
                self._faults = endpoint.admin + "/faults"
                self._options = {
                    "region": endpoint.region,
                    "endpoint": endpoint.endpoint,
                    "vSwitchIds": ",".join(endpoint.v_switch_ids),
                    "securityGroupIds": endpoint.security_group_id,
                    "pollSeconds": 0.05,
                }
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
                patch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
                backend = EciBackend(cluster=CLUSTER, node=node, options=self._options)
            yield await stack.enter_async_context(backend)

    def container(self, play: Play) -> Container:
        ports = {"ports": (Port(play.serves),)} if play.serves else {}
        return Container(play.name, "example.org/app:1", stdin=play.echoes, **ports, **play.fields)

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        tags = [f"{PREFIX}{word}:{value}" for play in plays for word, value in _words(play).items()]
        if len(tags) > MOST_TAGS or any("," in tag for tag in tags):
            pytest.skip("a pod can tell the simulated engine three things only, by its tags")
        return {"k8s.aliyun.com/eci-custom-tags": ",".join(tags)} if tags else {}

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        fault = {"kind": "error", "code": "ServiceUnavailable", "status": 503}
        async with aiohttp.ClientSession() as session:
            async with session.post(self._faults, json=fault) as answer:
                assert answer.status == 201
            try:
                yield
            finally:
                async with session.delete(self._faults) as answer:
                    assert answer.status < 300


def _words(play: Play) -> dict[str, str]:
    """What is not the engine's default."""
    words = {}
    if play.prints:
        words["output"] = "\n".join(play.prints)
    if play.seconds is not None:
        words["run-seconds"] = str(play.seconds)
    elif play.name == "init":
        words["run-seconds"] = "forever"
    if play.code:
        words["exit-code"] = str(play.code)
    if play.ignores_term:
        words["stop-seconds"] = "86400"
    if play.absent_image:
        words["pull-failures"] = "always"
    return {f"{word}.{play.name}": value for word, value in words.items()}
