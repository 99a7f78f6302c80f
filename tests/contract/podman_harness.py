"""The `podman` backend under test: plays are shell scripts, the store is a Podman service of its own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from harness import CLUSTER, NODE, Play

from overspill.backends.base import Backend
from overspill.backends.podman.backend import PodmanBackend
from overspill.model.work import Container, Port
from podman_service import IMAGE, NETWORK, PodmanService

ABSENT = "127.0.0.1:1/absent:1"
UNTIL_TERM = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
UNTIL_KILL = "trap '' TERM; while :; do sleep 0.1; done"


class PodmanHarness:
    """All tests share the service; each has its pods."""

    differences: Mapping[str, str] = {}

    def __init__(self, service: PodmanService) -> None:
        self.service = service

    @asynccontextmanager
    async def connect(self, *, node: str = NODE) -> AsyncIterator[Backend]:
        options = {"socket": self.service.socket, "network": NETWORK, "data_dir": self.service.data_dir}
        async with PodmanBackend(cluster=CLUSTER, node=node, options=options) as backend:
            yield backend

    def container(self, play: Play) -> Container:
        return podman_container(play)

    def annotations(self, plays: Sequence[Play]) -> dict[str, str]:
        return {}

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.service.kill()
        try:
            yield
        finally:
            self.service.start()


def podman_container(play: Play) -> Container:
    """A shell that plays it."""
    ports = {"ports": (Port(play.serves),)} if play.serves else {}
    return Container(
        play.name,
        ABSENT if play.absent_image else IMAGE,
        command=("sh", "-c", _script(play)),
        stdin=play.echoes,
        **ports,
        **play.fields,
    )


def _script(play: Play) -> str:
    lines = [f"echo '{line}'" for line in play.prints]
    if play.echoes:
        lines.append("cat")
    if play.serves:
        lines.append(f"nc -ll -p {play.serves} -e cat & {UNTIL_TERM}")
    elif play.seconds is None:
        lines.append(UNTIL_KILL if play.ignores_term else UNTIL_TERM)
    else:
        lines += [f"sleep {play.seconds}", f"exit {play.code}"]
    return "\n".join(lines)
