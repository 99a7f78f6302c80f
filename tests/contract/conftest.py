"""Every test of this folder runs once for each backend."""

from collections.abc import AsyncIterator, Iterator

import pytest
from harness import Harness, Stage
from podman_harness import PodmanHarness
from simulated_harness import SimulatedHarness

import podman_service

BACKENDS = ["simulated", pytest.param("podman", marks=pytest.mark.podman)]


@pytest.fixture(scope="session")
def podman() -> Iterator[podman_service.PodmanService]:
    """A Podman service of these tests' own."""
    if reason := podman_service.missing():
        pytest.skip(reason)
    with podman_service.running_service() as service:
        yield service


@pytest.fixture(params=BACKENDS)
def harness(request: pytest.FixtureRequest) -> Harness:
    """The backend under test."""
    if request.param == "simulated":
        return SimulatedHarness()
    return PodmanHarness(request.getfixturevalue("podman"))


@pytest.fixture
async def stage(harness: Harness) -> AsyncIterator[Stage]:
    """The backend under test, watched; what a test leaves running is ended."""
    async with harness.connect() as backend:
        stage = Stage(harness, backend)
        yield stage
        await stage.clean_up()
