"""Every test of this folder runs once for each backend; one backend's tests run in a row."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from eci_harness import EciHarness, EciPodmanHarness
from emulated import running_emulator
from harness import Harness, Stage
from podman_harness import PodmanHarness
from simulated_harness import SimulatedHarness

import podman_service
from overspill.emulator.networks import PodmanNetworks
from overspill.emulator.run import Endpoint

BACKENDS = [
    "simulated",
    "eci-simulated",
    pytest.param("podman", marks=pytest.mark.podman),
    pytest.param("eci-podman", marks=pytest.mark.podman),
]


@pytest.fixture(scope="session")
def podman() -> Iterator[podman_service.PodmanService]:
    """A Podman service of these tests' own."""
    if reason := podman_service.missing():
        pytest.skip(reason)
    with podman_service.running_service() as service:
        yield service


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An emulator whose containers are simulated."""
    options = {"log_seconds": 0}
    with running_emulator(tmp_path_factory.mktemp("emulator"), engine_options=options) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def emulator_over_podman(
    tmp_path_factory: pytest.TempPathFactory, podman: podman_service.PodmanService
) -> Iterator[Endpoint]:
    """An emulator whose containers are Podman's."""
    with running_emulator(
        tmp_path_factory.mktemp("emulator"),
        cidr=f"10.{random.randint(121, 179)}.{random.randint(0, 255)}.0/24",
        engine="podman",
        networks="podman",
        engine_options={"socket": podman.socket, "data_dir": podman.data_dir},
    ) as endpoint:
        yield endpoint
    podman.clear()  # of an ended group the API forgets sooner than Podman
    asyncio.run(PodmanNetworks(podman.socket, emulator=endpoint.emulator).remove())


@pytest.fixture(params=BACKENDS, scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """Which backend: of the session, so that pytest keeps one backend's tests together."""
    return request.param


@pytest.fixture
def harness(kind: str, request: pytest.FixtureRequest) -> Harness:
    """The backend under test."""
    if kind == "simulated":
        return SimulatedHarness()
    if kind == "eci-simulated":
        return EciHarness(request.getfixturevalue("emulator"))
    if kind == "eci-podman":
        return EciPodmanHarness(request.getfixturevalue("emulator_over_podman"))
    return PodmanHarness(request.getfixturevalue("podman"))


@pytest.fixture
async def stage(harness: Harness) -> AsyncIterator[Stage]:
    """The backend under test, watched; what a test leaves running is ended."""
    async with harness.connect() as backend:
        stage = Stage(harness, backend)
        yield stage
        await stage.clean_up()
