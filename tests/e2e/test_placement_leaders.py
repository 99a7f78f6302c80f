"""Placement when controllers die, sleep, are two, or have another clock; these take that of the other tests away."""

import signal
import time

import pytest
from placement_ledger import pool_of
from placement_manifests import deployment, policy, pool

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EVICT = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 50}


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


def some_placed(space, number=50):
    space.world.until(
        lambda: len(space.ledger.uids["elastic"]) >= number, what=f"{number} placed pods", seconds=180
    )


@pytest.mark.matrix
def test_11_the_leader_is_killed_in_the_middle(pair, space):
    leader, standby = pair
    space.policy()
    space.apply(deployment(500))
    some_placed(space)
    leader.kill()
    space.world.leading(standby)
    space.settled(base=5, elastic=495, seconds=240)
    assert space.ledger.peak["base"] == 5
    assert space.ledger.created == 500


@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.matrix)])
def test_13_the_leader_is_stopped_and_goes_on(pair, space, seconds):
    """What it had in flight is refused, as the pods have changed; what it had not yet sent, it does not send."""
    leader, standby = pair
    space.policy()
    before = space.ledger.writes
    space.apply(deployment(500))
    some_placed(space)
    leader.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    space.world.leading(standby)
    space.settled(base=5, elastic=495, seconds=240)
    space.world.until(lambda: time.monotonic() - stopped >= seconds, seconds=seconds + 60, what="the pause")
    leader.signal(signal.SIGCONT)
    space.world.until(lambda: "no longer leading" in leader.log.read_text(), what="a leader that gives up")
    space.scale(520)
    space.settled(base=5, elastic=515, seconds=120)
    assert space.ledger.peak["base"] == 5
    assert space.ledger.writes - before == 520, "each pod was written once"


@pytest.mark.parametrize("space", [55], indirect=True)
def test_12_two_that_both_believe_to_lead(no_controller, space):
    """With a Lease each; what one process may have in flight bounds what they overshoot together."""
    world = no_controller
    world.leading(world.controller("--lease-name", "one"))
    world.leading(world.controller("--lease-name", "two"))
    space.policy()
    space.apply(deployment(500))
    space.world.until(
        lambda: len(space.pods()) == 500 and None not in space.counts(), what="all placed", seconds=240
    )
    base = space.counts()["base"]
    space.world.until(lambda: space.is_true("OverAssigned") == (base > 5), what="what is over, told")
    world.controllers[-1].stop()
    space.apply(policy(rebalance=EVICT))  # or the next scale-in, which takes what is over first
    space.settled(base=5, elastic=495, seconds=120)
    space.apply(policy())
    space.scale(490)
    space.settled(base=5, elastic=485, seconds=120)


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
    assert "No controller works" in space.placement("status")
    world.leading(world.controller())
    space.settled(base=5, elastic=5)


@pytest.mark.matrix
def test_15_without_a_controller_pods_are_let_go_where_that_is_asked_for(no_controller, space):
    """By the guard, which counts nothing: it sends pods to the last pool, and never breaks a bound."""
    world = no_controller
    first = world.leading(world.controller())
    guard = world.guard()
    space.policy(gate={"timeoutSeconds": 2, "onTimeout": "Release"})
    space.apply(deployment(5))
    space.settled(base=5)
    first.kill()
    space.scale(10)
    space.world.until(
        lambda: space.counts() == {"base": 5, "elastic": 5} and space.ready().total() == 10,
        seconds=90,
        what="five pods that were let go",
    )
    events = space.kubectl("get", "events", "--field-selector=reason=GateReleased", "-o", "name").split()
    assert len(events) == 5
    world.leading(world.controller())
    space.settled(base=5, elastic=5)
    assert space.ranks() == list(range(1, 11)), "adopted, with ranks of their own"
    guard.stop()


@pytest.mark.matrix
def test_15_while_a_controller_leads_the_guard_lets_nobody_go(no_controller, space):
    world = no_controller
    world.leading(world.controller())
    guard = world.guard()
    space.policy(pool("base", 2), gate={"timeoutSeconds": 1, "onTimeout": "Wait"})
    space.apply(deployment(4))
    space.world.until(lambda: space.is_true("Waiting"), what="pods that wait")
    space.apply(policy(pool("base", 2), gate={"timeoutSeconds": 1, "onTimeout": "Release"}))
    space.world.until(lambda: space.bound() == 4, what="pods that the controller lets go")
    assert "GateReleased" not in space.kubectl("get", "events", "-o", "name", "-o", "jsonpath={..reason}")
    guard.stop()


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
def test_17_the_watch_is_closed_with_410_in_a_burst(no_controller, space):
    """An apiserver that has just started cannot go on from a version before its start: it answers 410 Gone.

    On a busy machine it may be away for longer than the Lease lasts; then all is listed anew by whoever leads next.
    """
    world = no_controller
    controller = world.leading(world.controller())
    space.policy()
    space.apply(deployment(200))
    some_placed(space)
    world.replace_apiserver()
    space.settled(base=5, elastic=195, seconds=240)
    relists = controller.total(r'overspill_watch_relists_total{resource="pods"}')
    assert relists + controller.log.read_text().count("everything is listed") >= 2
    assert space.ledger.peak["base"] == 5


@pytest.mark.matrix
@pytest.mark.parametrize("skew", [300, -300])
def test_52_a_controller_whose_clock_is_wrong(no_controller, space, skew):
    """Time-outs, cool-downs and the Lease: all by a clock of its own that only ever runs."""
    world = no_controller
    first = world.leading(world.controller(skew=skew))
    standby = world.controller()
    base = pool("base", 5, nodes="small", unschedulableTimeoutSeconds=2, cooldownSeconds=3600)
    space.policy(base, pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    assert not standby.leads(), "the Lease of a clock that is wrong is as good as any"
    tried = len(space.ledger.uids["base"])
    first.kill()
    world.leading(standby)
    space.scale(25)
    space.settled(base=3, elastic=22)
    assert len(space.ledger.uids["base"]) == tried, "its successor knows of the cool-down, and believes in it"
    space.scale(0)
    space.settled()


@pytest.mark.matrix
def test_restart_writes_nothing(no_controller, space):
    world = no_controller
    first = world.leading(world.controller())
    space.policy(pool("base", 5), pool("elastic"))
    space.apply(deployment(30))
    space.settled(base=5, elastic=25)
    before = space.ledger.writes
    first.stop()
    world.leading(world.controller())
    space.scale(31)
    space.settled(base=5, elastic=26)
    assert space.ledger.writes - before == 1
    assert {pool_of(each) for each in space.pods()} == {"base", "elastic"}
