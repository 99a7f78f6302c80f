"""Acceptance scenarios of placement: nodes that are full, drained, lost, and pools without stock."""

import contextlib
import json
import signal
import time

import pytest
from placement_ledger import pool_of
from placement_manifests import deployment, policy, pool

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]

EVICT = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 1}


def small(**more):
    return pool("base", 5, nodes="small", **more)


@pytest.fixture
def emptied(space):
    """The small node is the others' again, afterwards."""
    yield space
    space.scale(0)
    space.settled()


@contextlib.contextmanager
def another_node(space, name, *flags, **how):
    """A node for a while; all pods go with it."""
    process = space.world.node(name, *flags, **how)
    try:
        space.world.ready_nodes(name)
        yield process
        space.kubectl("scale", "deployment", "--all", "--replicas=0")
        space.settled()
    finally:
        process.stop()
        space.cluster.kubectl("delete", "node", name, "--ignore-not-found")


def test_27_pods_that_were_bound_in_the_last_moment_are_left_alone(emptied):
    """The controller sleeps over its pods' time-out, and over the arrival of a node that takes them."""
    space = emptied
    seconds = 8  # less than what makes a leader that sleeps lose its Lease
    space.policy(small(unschedulableTimeoutSeconds=seconds, cooldownSeconds=3600), pool("elastic"))
    with another_node(space, "small-1", pods=3, taint=False):
        with space.world.cordoned("small-1"):
            space.apply(deployment(20))
            space.world.until(
                lambda: (stranded(space), space.bound()) == (2, 18), what="two base pods without a node"
            )
            began = time.monotonic()
            space.world.current.signal(signal.SIGSTOP)
        try:
            space.world.until(lambda: space.bound() == 20, what="all pods on nodes")
            space.world.until(lambda: time.monotonic() - began > seconds, what="their time-out")
        finally:
            space.world.current.signal(signal.SIGCONT)
        space.settled(base=5, elastic=15)
        assert space.ledger.created == 20, "nobody was deleted"


def stranded(space):
    """How many base pods the scheduler could not place."""
    return sum(
        any(each.get("reason") == "Unschedulable" for each in found["status"].get("conditions", ()))
        for found in space.pods()
        if pool_of(found) == "base"
    )


def test_28_looking_for_room_first_deletes_nothing(emptied):
    space = emptied
    space.policy(small(capacityCheck="Simulate"), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    assert space.ledger.created == 20


def test_29_waiting_for_the_base_is_a_choice(emptied):
    space = emptied
    space.policy(small(whenUnschedulable="Wait", unschedulableTimeoutSeconds=1), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=5, elastic=15, running=False)
    space.world.until(lambda: space.ready() == {"base": 3, "elastic": 15}, what="all but two ready")
    assert stranded(space) == 2


def test_30_room_that_comes_later(emptied):
    space = emptied
    space.policy(small(unschedulableTimeoutSeconds=1, cooldownSeconds=2), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    with another_node(space, "small-1", pods=3, taint=False):
        # The status tells of the cool-down's end, and so that all was looked at with the new node there.
        space.world.until(lambda: not space.is_true("PoolUnschedulable"), what="the cool-down's end")
        space.settled(base=3, elastic=17)
        space.ledger.watch_ready()
        space.apply(policy(small(cooldownSeconds=2), pool("elastic"), rebalance=EVICT))
        space.settled(base=5, elastic=15)
        assert space.ledger.least_ready >= 19, "one at a time"


def drain(space, node):
    space.cluster.kubectl("drain", node, "--ignore-daemonsets", "--force", "--pod-selector=app=web")


def test_31_a_base_node_is_drained(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    on = [each["spec"]["nodeName"] for each in space.pods() if pool_of(each) == "base"]
    fuller = max(("base-0", "base-1"), key=on.count)
    assert on.count(fuller) >= 3
    with space.world.cordoned(fuller):
        drain(space, fuller)
        space.settled(base=5, elastic=15)


def test_32_all_base_nodes_are_drained(space):
    space.policy(pool("base", 5, unschedulableTimeoutSeconds=2, cooldownSeconds=2), pool("elastic"))
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    with space.world.cordoned("base-0", "base-1"):
        drain(space, "base-0")
        drain(space, "base-1")
        space.settled(elastic=20)
    space.world.until(lambda: not space.is_true("PoolUnschedulable"), what="the cool-down's end")
    space.settled(elastic=20)
    # The first pod after the cool-down is a probe; the second waits for nothing, but may pass it by.
    space.scale(21)
    space.settled(base=1, elastic=20)
    space.scale(22)
    space.settled(base=2, elastic=20)


def test_33_a_base_node_that_cannot_be_reached(space):
    """One workload has a node left, the other has not; both nodes are of the same pool to the scheduler."""
    tolerations = [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 1,
        }
        for what in ("unreachable", "not-ready")
    ]
    times = {"unschedulableTimeoutSeconds": 2, "cooldownSeconds": 3600}
    alone = {**pool("base", 5, **times), "nodeSelector": {"kubernetes.io/hostname": "lost-0"}}
    target = {"apiVersion": "apps/v1", "kind": "Deployment"}
    with another_node(space, "lost-1", taint=False):
        lost = space.world.node("lost-0", taint=False)
        space.world.ready_nodes("lost-0")
        try:
            with space.world.cordoned("lost-1"):
                space.policy(alone, pool("elastic"))
                space.policy(
                    pool("base", 5, nodes="lost", **times),
                    pool("elastic"),
                    name="api",
                    targetRef={**target, "name": "api"},
                )
                space.apply(*(deployment(20, name=name, tolerations=tolerations) for name in ("web", "api")))
                space.settled(base=10, elastic=30)
                lost.kill()
            # The node controller takes 50 s to believe it, and then evicts its pods.
            space.settled(base=5, elastic=35, seconds=180)
            ending = [each.node for each in list(space.ledger.pods.values()) if each.ending]
            assert ending == ["lost-0"] * 10, "nobody is there to end them, and they count for nothing"
            assert {each["spec"]["nodeName"] for each in space.pods() if pool_of(each) == "base"} == {
                "lost-1"
            }
            status = space.cluster.get("pp", "web", "-n", space.name)["status"]["pools"][0]
            assert (status["assignedReplicas"], status["terminatingReplicas"]) == (0, 5)
        finally:
            lost.stop()
            space.cluster.kubectl("delete", "node", "lost-0", "--ignore-not-found")


def spot_pools(cooldown):
    return (
        pool("base", 5),
        pool("spot", 20, unschedulableTimeoutSeconds=1, cooldownSeconds=cooldown),
        pool("elastic"),
    )


def tells(space, words):
    """Wait until the condition says that."""
    space.world.until(lambda: words in space.condition("PoolUnschedulable")["message"], what=words)


def test_35_spot_without_stock(space):
    with another_node(space, "spot-0", "--backend-option", "stock=0") as node:
        space.policy(*spot_pools(8))
        space.apply(deployment(40))
        tells(space, "spot is left alone")
        space.settled(base=5, elastic=35)
        space.world.until(lambda: not space.is_true("PoolUnschedulable"), what="the cool-down's end")
        tried, began = len(space.ledger.uids["spot"]), time.monotonic()
        space.scale(45)
        space.settled(base=5, elastic=40)
        probes = len(space.ledger.uids["spot"]) - tried
        assert 1 <= probes <= 1 + (time.monotonic() - began) / 8, "one for a cool-down"
        node.stop()
        with another_node(space, "spot-0", "--backend-option", "stock=100"):
            space.world.until(lambda: not space.is_true("PoolUnschedulable"), what="the cool-down's end")
            space.scale(46)
            space.settled(base=5, spot=1, elastic=40)
            space.scale(50)
            space.settled(base=5, spot=5, elastic=40)


@pytest.mark.parametrize("space", [6], indirect=True)
def test_35_the_last_pool_without_stock_is_asked_on(space):
    """There is no other pool to go to: its cool-down holds nobody up, and the condition tells."""
    spot = pool("spot", unschedulableTimeoutSeconds=1, cooldownSeconds=3600)
    with another_node(space, "spot-0", "--backend-option", "stock=0") as node:
        space.policy(pool("base", 5), spot)
        space.apply(deployment(7))
        tells(space, "spot keeps pods")
        space.apply(policy(pool("base", 6), spot))
        space.arrived(base=6, spot=1, running=False)
        tells(space, "spot is left alone")
        space.scale(10)
        space.arrived(base=6, spot=4, running=False)
        node.stop()
        with another_node(space, "spot-0", "--backend-option", "stock=100"):
            space.settled(base=6, spot=4)


def test_37_spot_instances_that_are_taken_away(space):
    """Ten at once, as their provider says it; only five can be had again."""
    failed = json.dumps({"status": {"phase": "Failed", "reason": "SpotInterrupted"}})
    with another_node(space, "spot-0", "--backend-option", "stock=20") as node:
        space.policy(*spot_pools(3600))
        space.apply(deployment(30))
        space.settled(base=5, spot=20, elastic=5)
        before = {each["metadata"]["uid"] for each in space.pods() if pool_of(each) == "base"}
        node.kill()
        for each in [each for each in space.pods() if pool_of(each) == "spot"][:10]:
            space.kubectl("patch", "pod", each["metadata"]["name"], "--subresource=status", "-p", failed)
        with another_node(space, "spot-0", "--backend-option", "stock=15"):
            space.settled(base=5, spot=15, elastic=10)
            assert {each["metadata"]["uid"] for each in space.pods() if pool_of(each) == "base"} == before
