"""What the flow tests share."""

from collections.abc import AsyncIterator, Iterator

import podman_pods
import pytest

import podman_service


@pytest.fixture(scope="session")
def podman() -> Iterator[podman_service.PodmanService]:
    """A Podman service of these tests' own."""
    if reason := podman_service.missing():
        pytest.skip(reason)
    with podman_service.running_service() as service:
        yield service


@pytest.fixture
async def stage(podman: podman_service.PodmanService) -> AsyncIterator[podman_pods.Stage]:
    """A podman backend that is watched; what a test leaves running is ended."""
    async with podman_pods.staged(podman) as stage:
        yield stage
