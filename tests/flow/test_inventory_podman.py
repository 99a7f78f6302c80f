"""The view of a whole cluster's pods at one Podman, whoever runs them."""

import asyncio
import re

import pytest
from kube_server import serving
from msgspec import structs
from orphans_world import Kube
from podman_life import shared
from podman_pods import CLUSTER, NODE, SLEEP, Stage, backend_of, eventually, pod, shell, staged

from overspill.backends.base import ContainerGroup
from overspill.backends.podman.folder import node_root
from overspill.backends.podman.inventory import PodmanInventory
from overspill.errors import Conflict, Misconfigured, NotFound, Retry
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.model.work import EmptyDir, Identity, Mount
from overspill.orphans.collector import Collector, Rules
from overspill.orphans.record import Record
from podman_service import NETWORK, PodmanService

pytestmark = pytest.mark.podman


def inventory(service: PodmanService, *, cluster: str = CLUSTER) -> PodmanInventory:
    options = {"socket": service.socket, "network": NETWORK, "data_dir": service.data_dir}
    return PodmanInventory(cluster=cluster, options=options)


async def of_pod(found: PodmanInventory, identity: Identity) -> ContainerGroup:
    return next(each for each in (await found.list()).groups if each.identity == identity)


async def test_a_pod_is_seen_over_all_nodes_of_its_cluster_and_foreign_to_others(stage: Stage):
    work = pod(shell(SLEEP))
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with inventory(stage.service) as ours, inventory(stage.service, cluster="other") as theirs:
        seen = await of_pod(ours, work.identity)
        assert (seen.status, seen.terminating, seen.ended, seen.price) == ("Running", False, False, 0)
        assert seen.created_at > 0
        listing = await theirs.list()
        assert (listing.groups, listing.foreign >= 1) == ([], True)
        with pytest.raises(Conflict):
            await theirs.remove(
                structs.replace(seen, identity=structs.replace(seen.identity, cluster="other"))
            )


async def test_agent_and_controller_tell_the_same_of_their_podman(podman: PodmanService):
    async with backend_of(podman) as backend, inventory(podman) as found:
        labels = await found.node_labels()
        assert labels == await backend.node_labels()
        assert re.fullmatch("[0-9a-f]{16}", labels["overspill.dev/podman"])


async def test_a_pod_without_an_agent_is_removed_with_all_that_it_had(podman: PodmanService):
    """And an agent that comes back does not make it anew."""
    mount = Mount(path="/memory", volume="memory")
    memory = {"memory": EmptyDir(medium="Memory")}
    work = pod(shell(SLEEP, mounts=(mount,)), volumes=memory, termination_grace_period_seconds=1)
    async with backend_of(podman) as backend:
        await backend.create(work)
        async with inventory(podman) as found:
            await _until_listed(found, work.identity)
    async with inventory(podman) as found:
        seen = await of_pod(found, work.identity)
        await found.remove(seen)
        assert work.identity not in [each.identity for each in (await found.list()).groups]
        with pytest.raises(NotFound):
            await found.remove(seen)
    assert work.identity.uid not in podman.run("volume", "ls")
    async with backend_of(podman) as again:
        assert work.identity not in [each.identity for each in await again.list()]


async def test_a_pod_without_an_agent_has_its_grace_and_its_files_until_it_ends(podman: PodmanService):
    last_words = "until test -e /shared/go; do sleep 0.1; done; cat /shared/kept >>/shared/log; exit 0"
    script = f"trap '{last_words}' TERM; echo up >>/shared/log; while :; do sleep 0.1; done"
    work = shared(shell(script), termination_grace_period_seconds=25)
    path = node_root(podman.data_dir, CLUSTER, NODE) / f"{work.identity.uid}.0" / "volumes" / "shared"
    async with backend_of(podman) as backend:
        await backend.create(work)
        await eventually((path / "log").exists)
    (path / "kept").write_text("words")
    async with inventory(podman) as found, asyncio.TaskGroup() as group:
        with (path / "log").open() as log:  # outlives its name
            removal = group.create_task(found.remove(await of_pod(found, work.identity)))
            async with asyncio.timeout(20):
                while not (await of_pod(found, work.identity)).terminating:
                    pass
            (path / "go").touch()
            await removal
            assert log.read().split() == ["up", "words"]
    assert work.identity.uid not in "".join(podman.leftovers())


async def test_a_pod_of_a_long_grace_is_removed_when_that_is_over(podman: PodmanService, monkeypatch):
    """An agent that comes meanwhile goes on with it."""
    monkeypatch.setattr("overspill.backends.podman.inventory.PATIENCE", 0.1)
    script = "trap '' TERM; touch /shared/up; while :; do sleep 0.1; done"
    work = shared(shell(script), termination_grace_period_seconds=600)
    path = node_root(podman.data_dir, CLUSTER, NODE) / f"{work.identity.uid}.0" / "volumes" / "shared"
    async with backend_of(podman) as backend:
        await backend.create(work)
        await eventually((path / "up").exists)
    async with inventory(podman) as found:
        with pytest.raises(Retry, match="grace of 600 s"):
            await found.remove(await of_pod(found, work.identity))
        assert (await of_pod(found, work.identity)).terminating
    async with staged(podman) as stage:
        (seen,) = await stage.backend.list()
        assert seen.deleting


async def test_the_collector_ends_a_pod_that_nobody_wants_and_keeps_the_other(podman: PodmanService):
    kube = Kube(cluster=CLUSTER)
    kept, lost = (structs.replace(kube.pod(name), node=NODE) for name in ("kept", "lost"))
    async with backend_of(podman) as backend, inventory(podman) as found:
        for identity in (kept, lost):
            work = pod(shell(SLEEP), termination_grace_period_seconds=1)
            await backend.create(structs.replace(work, identity=identity))
            await _until_listed(found, identity)
    del kube.pods[lost.uid]
    now = iter(range(0, 1000, 100))
    rules = Rules(backend="podman", delete=True, quiet_seconds=60.0, period_seconds=1.0, per_minute=30)
    async with (
        serving(kube.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
        inventory(podman) as found,
    ):
        events = Events(client, instance="test")
        record = Record(client, "orphans", namespace="kube-system")
        collector = Collector(
            client, found, events, rules, record, sure=lambda: True, clock=lambda: next(now)
        )
        await collector.look()
        await collector.look()
        left = {each.identity: each for each in (await found.list()).groups}
        assert lost not in left
        await found.remove(left[kept])


async def test_a_pod_whose_grace_runs_is_terminating(stage: Stage):
    work = pod(shell("trap '' TERM; while :; do sleep 0.1; done"))
    await stage.backend.create(work)
    await stage.witness.running(work)
    async with inventory(stage.service) as found:
        await stage.backend.delete(work.identity, grace_seconds=600)
        assert (await of_pod(found, work.identity)).terminating
    await stage.witness.end(work)


async def test_a_podman_that_is_away_is_an_error_and_no_empty_list(podman: PodmanService):
    async with inventory(podman) as found:
        podman.kill()
        try:
            with pytest.raises(Retry):
                await found.list()
        finally:
            podman.start()


async def test_a_wrong_option_is_named():
    with pytest.raises(Misconfigured, match="backend podman"):
        PodmanInventory(cluster=CLUSTER, options={"typo": 1})


async def _until_listed(found: PodmanInventory, identity: Identity) -> None:
    async with asyncio.timeout(30):
        while identity not in [  # noqa: ASYNC110 - the list is all that an inventory has
            each.identity for each in (await found.list()).groups
        ]:
            await asyncio.sleep(0.1)
