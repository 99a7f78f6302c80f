"""The `simulated` backend under test: plays are annotations, the store is one `Cloud`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from harness import CLUSTER, NODE, Play

from overspill.backends.base import Backend
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.backends.simulated.cloud import Cloud
from overspill.backends.simulated.options import Options
from overspill.backends.simulated.script import PREFIX
from overspill.model.work import Container, Port


class SimulatedHarness:
    """A cloud of its own for each test."""

    differences: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.cloud = Cloud(Options(log_seconds=0), cidr="10.9.0.0/24")

    @asynccontextmanager
    async def connect(self, *, node: str = NODE) -> AsyncIterator[Backend]:
        async with SimulatedBackend(cluster=CLUSTER, node=node, options={}, cloud=self.cloud) as backend:
            yield backend

    def container(self, play: Play) -> Container:
        ports = {"ports": (Port(play.serves),)} if play.serves else {}
        return Container(play.name, "example.org/app:1", stdin=play.echoes, **ports, **play.fields)

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        said: dict[str, str] = {}
        for play in plays:
            words = {
                "output": "\n".join(play.prints),
                "run-seconds": "forever" if play.seconds is None else str(play.seconds),
                "exit-code": str(play.code),
                "stop-seconds": "86400" if play.ignores_term else "0",
                "pull-failures": "always" if play.absent_image else "0",
            }
            said |= {f"{PREFIX}{word}.{play.name}": value for word, value in words.items()}
        return said

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.cloud.fail("a test cut it off")
        try:
            yield
        finally:
            self.cloud.heal()
