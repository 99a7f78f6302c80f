"""Placement when controllers die, are stopped, or are two; these take the one of the other tests away for a while."""

import signal

import pytest
from placement_world import deployment, pool, pool_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture
def no_controller(world):
    """The cluster without a controller; it has one again afterwards."""
    world.current.stop()
    yield world
    for each in world.controllers:
        each.stop()
    world.leading(world.controller())


@pytest.fixture
def pair(no_controller):
    """A controller that leads, and one that would."""
    first = no_controller.leading(no_controller.controller())
    return first, no_controller.controller()


def some_placed(space, number):
    space.world.until(
        lambda: len(space.ledger.uids["elastic"]) >= number, what=f"{number} placed pods", seconds=180
    )


@pytest.mark.matrix
def test_11_the_leader_is_killed_in_the_middle(pair, space):
    leader, standby = pair
    space.policy()
    space.apply(deployment(300))
    some_placed(space, 50)
    leader.kill()
    space.world.leading(standby)
    space.settled(base=5, elastic=295, seconds=240)
    assert space.ledger.peak["base"] == 5


def test_13_the_leader_is_stopped_and_goes_on(pair, space):
    leader, standby = pair
    space.policy()
    space.apply(deployment(300))
    some_placed(space, 50)
    leader.signal(signal.SIGSTOP)
    space.world.leading(standby)
    space.settled(base=5, elastic=295, seconds=240)
    leader.signal(signal.SIGCONT)
    space.world.until(lambda: "no longer leading" in leader.log.read_text(), what="a leader that gives up")
    space.scale(320)
    space.settled(base=5, elastic=315, seconds=120)
    assert space.ledger.peak["base"] == 5


@pytest.mark.parametrize("space", [55], indirect=True)
def test_12_two_that_both_believe_to_lead(no_controller, space):
    """With a Lease each; what one process may have in flight bounds what they overshoot together."""
    world = no_controller
    world.leading(world.controller("--lease-name", "one"))
    world.leading(world.controller("--lease-name", "two"))
    space.policy()
    space.apply(deployment(300))
    space.world.until(
        lambda: len(space.pods()) == 300 and None not in space.counts(), what="all placed", seconds=240
    )
    world.controllers[-1].stop()
    base = space.counts()["base"]
    assert base <= 55
    space.world.until(lambda: space.is_true("OverAssigned") == (base > 5), what="what is over, told")
    space.scale(290)
    space.settled(base=5, elastic=285, seconds=120)


@pytest.mark.matrix
def test_14_without_a_controller_pods_wait(no_controller, space):
    world = no_controller
    first = world.leading(world.controller())
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    first.stop()
    space.scale(10)
    space.world.until(lambda: len(space.pods()) == 10, what="ten pods")
    assert space.counts() == {"base": 5, None: 5}
    world.leading(world.controller())
    space.settled(base=5, elastic=5)


@pytest.mark.matrix
def test_16_pods_that_passed_ungated_are_adopted_by_their_node(no_controller, space):
    """What a failing gate lets through while nobody looks."""
    world = no_controller
    first = world.leading(world.controller())
    space.policy()
    space.apply(deployment(7))
    space.settled(base=5, elastic=2)
    first.stop()
    space.scale(10)
    space.world.until(lambda: len(space.pods()) == 10, what="ten pods")
    with world.cordoned("small-0"):  # a node of no pool of this policy
        space.placement("release")
        space.world.until(lambda: space.bound() == 10, what="pods on nodes")
    world.leading(world.controller())
    space.world.until(lambda: None not in space.counts(), what="pods that were adopted")
    over = space.counts()["base"]
    assert over >= 5
    space.ledger.violations.clear()
    space.scale(7)
    space.world.until(lambda: space.counts() == {"base": 5, "elastic": 2}, what="surplus that goes first")


@pytest.mark.matrix
def test_restart_writes_nothing(no_controller, space):
    world = no_controller
    first = world.leading(world.controller())
    space.policy(pool("base", 5), pool("elastic"))
    space.apply(deployment(30))
    space.settled(base=5, elastic=25)
    versions = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in space.pods()}
    first.stop()
    again = world.leading(world.controller())
    space.scale(31)
    space.settled(base=5, elastic=26)
    now = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in space.pods()}
    assert {uid: now[uid] for uid in versions} == versions
    assert again.total("overspill_placement_pods_placed_total") == 1
    assert {pool_of(each) for each in space.pods()} == {"base", "elastic"}
