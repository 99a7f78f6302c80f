"""The `eci` backend under test: the store is an emulator, over either of its engines.

What containers do is said in the engine's words. A simulated container is told by tags of its group, of
which a pod may set three; one of Podman's is a shell script, as it is without ECI in between.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from emulated import KEY
from harness import CLUSTER, NODE, Play
from podman_harness import podman_container

from overspill.backends.base import Backend
from overspill.backends.eci.backend import EciBackend
from overspill.backends.simulated.script import PREFIX
from overspill.emulator.run import Endpoint
from overspill.model.work import Container, Port

MOST_TAGS = 3
OF_ECI = {
    "grace of a delete": "the grace is fixed when the pod is made; a delete cannot change it",
    "end of a deleted pod": "ECI forgets a deleted group; how its containers ended is not told",
    "streams of a log": "both streams of a container are in one log, and cannot be told apart",
    "address in a text": "the pod's address can only be the whole value of a variable",
}
OF_SIMULATED_CONTAINERS = {
    "network": "simulated containers are at no network",
    "probes": "simulated containers have nothing to be asked",
}


class EciHarness:
    """All tests share the emulator; each has its groups."""

    differences: Mapping[str, str] = OF_ECI | OF_SIMULATED_CONTAINERS

    def __init__(self, endpoint: Endpoint) -> None:
        self._faults = endpoint.admin + "/faults"
        self._options = {
            "region": endpoint.region,
            "endpoint": endpoint.endpoint,
            "vSwitchIds": ",".join(endpoint.v_switch_ids),
            "securityGroupIds": endpoint.security_group_id,
            "pollSeconds": 0.05,
        }

    @asynccontextmanager
    async def connect(self, *, node: str = NODE) -> AsyncIterator[Backend]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
            patch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
            made = EciBackend(cluster=CLUSTER, node=node, options=self._options)
        async with made as backend:
            yield backend

    def container(self, play: Play) -> Container:
        ports = {"ports": (Port(play.serves),)} if play.serves else {}
        return Container(play.name, "example.org/app:1", stdin=play.echoes, **ports, **play.fields)

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        tags = [f"{PREFIX}{word}:{value}" for play in plays for word, value in _words(play).items()]
        assert len(tags) <= MOST_TAGS, "a pod can tell the simulated engine three things only, by its tags"
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


class EciPodmanHarness(EciHarness):
    """Over Podman: real containers, at addresses of a vSwitch."""

    differences: Mapping[str, str] = OF_ECI

    def container(self, play: Play) -> Container:
        return podman_container(play)

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        return {}


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
