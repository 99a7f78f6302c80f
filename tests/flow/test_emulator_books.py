"""What the engine's lists mean for the groups, and what a restart finds again."""

import asyncio
from contextlib import closing

import pytest
from emulators import until
from msgspec import structs

from overspill.backends.simulated.backend import SimulatedBackend
from overspill.emulator import groups as life
from overspill.emulator.books import Books
from overspill.emulator.cloud import Cloud, Timings
from overspill.emulator.engine import Engine
from overspill.emulator.faults import Faults
from overspill.emulator.network import Network, SecurityGroup, VSwitch
from overspill.emulator.reports import Reports
from overspill.emulator.requests import Container, CreateContainerGroup
from overspill.emulator.stock import Stock
from overspill.emulator.store import Store
from overspill.emulator.usage import History
from overspill.errors import Rejected
from overspill.model.observation import ContainerObservation, Gone, Observation, Running
from overspill.model.work import Identity

REQUEST = CreateContainerGroup(container_group_name="demo", container=(Container("main", "image"),))


class World:
    """A region without an engine, at a time of its own."""

    def __init__(self, path):
        self.now = 1000.0
        self.store = Store(path)
        network = Network(
            "vpc",
            vswitches=[VSwitch("a", "z", "10.0.0.0/28")],
            security_groups=[SecurityGroup("g")],
        )
        self.books = Books(store=self.store, network=network, stock=Stock({}), clock=lambda: self.now)
        self.cloud = Cloud(
            region="r", books=self.books, faults=Faults(), timings=Timings(scheduling=1), max_cpu=100
        )
        self.reports = Reports(self.books)

    def create(self, **changes):
        return self.cloud.create(structs.replace(REQUEST, **changes))

    def running(self):
        """A group that the engine was given and has seen running."""
        group = self.create()
        self.pass_time(1)
        self.reports.submitted(group)
        self.reports.sighted([seen(group)])
        assert self.group(group).status == "Running"
        return group

    def pass_time(self, seconds):
        self.now += seconds
        self.cloud.tick()

    def group(self, name):
        entry = self.books.get(name)
        return entry.group if entry else None

    def free(self):
        return self.books.network.pools["a"].free

    def close(self):
        self.store.close()


def seen(group, attempt=0):
    containers = (ContainerObservation("main", Running(1.0), "image", ready=True, started=True),)
    return Observation(Identity("e", "r", "eci", "demo", group, attempt), 1.0, containers)


@pytest.fixture
def world(tmp_path):
    with closing(World(tmp_path / "db")) as world:
        yield world


def test_what_a_later_list_lacks_is_lost(world):
    group, new = world.running(), world.create()
    assert world.reports.listed([], expected=world.reports.expected(), restarted=False) == []
    assert (world.group(group).status, world.group(group).reason) == ("Failed", "SystemFailure.Redeploy")
    assert world.group(new).status == "Scheduling"


def test_what_was_not_expected_is_left_alone(world):
    group = world.running()
    world.reports.listed([], expected=set(), restarted=False)
    assert world.group(group).status == "Running"


def test_after_a_restart_what_lived_begins_again(world):
    group = world.running()
    world.reports.listed([], expected=world.reports.expected(), restarted=True)
    assert world.group(group).status == "Running"
    assert world.reports.step(group)[0].verb == "create"
    assert world.group(group).events[-1].reason == "SystemReboot"


def test_what_nobody_holds_is_named(world):
    group = world.running()
    stray, old = seen("eci-unknown"), seen(group, attempt=7)
    listing = [seen(group), stray, old]
    assert world.reports.listed(listing, expected={group}, restarted=False) == [stray, old]


def test_gone_drops_what_was_to_be_deleted(world):
    group = world.running()
    before = world.free()
    world.cloud.delete(group)
    assert world.group(group).status == "Terminating"
    world.reports.sighted([Gone(seen(group).identity)])
    assert world.group(group) is None
    assert world.free() == before + 1
    assert world.books.used_cpu == 0
    [line] = world.store.bill()
    assert line.ended == world.now


def test_a_group_that_is_deleted_while_it_is_scheduled_was_never_billed(world):
    group = world.create()
    world.cloud.delete(group)
    assert world.group(group) is None
    assert world.store.bill() == []


def test_a_group_that_stays_pending_is_given_up(world, tmp_path):
    group = world.create(max_pending_minute=10)
    world.pass_time(1)
    world.reports.submitted(group)
    world.pass_time(599)
    assert world.group(group).status == "Pending"
    with closing(World(tmp_path / "db")) as again:
        again.now = world.now
        again.pass_time(1)
        assert (again.group(group).status, again.group(group).reason) == ("Failed", "MaxPendingTimeExceeded")
        assert again.reports.step(group)[0].verb == "delete"
        assert again.group(group).events[-1].message == "The group was Pending for too long."


def test_a_group_that_ran_in_time_is_left_alone(world):
    group = world.running()
    world.pass_time(241 * 60)
    assert world.group(group).status == "Running"


def test_an_ended_group_is_hidden_while_the_engine_lets_go(world):
    group = world.running()
    world.reports.sighted([structs.replace(seen(group), failed=True, reason="DeadlineExceeded")])
    assert world.group(group).status == "Failed"
    world.cloud.delete(group)
    assert list(world.books.entries()) == []
    assert world.reports.step(group)[0].verb == "delete"
    world.reports.sighted([Gone(seen(group).identity)])
    assert world.group(group) is None


def test_retention_lets_go_of_the_engine_too(world):
    world.cloud.timings = Timings(retention=life.Retention(seconds=10, count=0))
    group = world.running()
    world.reports.sighted([structs.replace(seen(group), failed=True)])
    world.pass_time(20)
    world.cloud.forget()
    assert world.reports.step(group)[0].verb == "delete"


def test_everything_is_found_again(world, tmp_path):
    kept, gone = world.running(), world.running()
    world.cloud.delete(gone)
    world.reports.sighted([Gone(seen(gone).identity)])
    with closing(World(tmp_path / "db")) as again:
        assert again.group(kept) == world.group(kept)
        assert again.cloud.id == world.cloud.id
        assert again.free() == world.free()
        assert again.books.used_cpu == world.books.used_cpu
        assert [entry.group.id for entry in again.books.changed_since(0)] == [kept]
        with pytest.raises(Exception, match=r"10\.0\.0\.1"):
            again.books.network.restore("a", "g", "10.0.0.1")


class Refusing(SimulatedBackend):
    """Refuses the first question of each kind, as Podman may while it is set up anew."""

    def __init__(self):
        super().__init__(cluster="e", node="r", options={})
        self.refused = set()

    def refuse(self, what):
        if what not in self.refused:
            self.refused.add(what)
            raise Rejected(f"no {what}")

    async def list(self):
        self.refuse("list")
        return await super().list()

    async def usage(self):
        self.refuse("usage")
        return await super().usage()

    async def delete(self, identity, *, grace_seconds):
        self.refuse("delete")
        await super().delete(identity, grace_seconds=grace_seconds)


async def test_what_the_engine_refuses_once_is_asked_again(world):
    group = world.create()
    world.pass_time(1)
    async with Refusing() as backend, asyncio.TaskGroup() as tasks:
        engine = Engine(backend, emulator="e", books=world.books, networks={})
        history = History(engine.usage)
        running = tasks.create_task(engine.run())

        async def measured():
            await history.refresh(0)
            return history.latest(world.group(group))

        await until(measured, "figures of the group")
        world.cloud.delete(group)

        async def gone():
            return world.group(group) is None

        await until(gone, "the group's end")
        running.cancel()
    assert backend.refused == {"list", "usage", "delete"}
