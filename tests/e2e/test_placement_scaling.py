"""Acceptance scenarios of placement: up and down, creates that are refused, many pods."""

import pytest
from placement_manifests import deployment, policy, pool
from refusing_webhook import RefusingWebhook

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]


def test_01_fewer_than_the_base(space):
    space.policy()
    space.apply(deployment(3))
    space.settled(base=3)


def test_05_down_below_the_base_and_up_again(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.scale(3)
    space.settled(base=3)
    space.scale(20)
    space.settled(base=5, elastic=15)


def test_36_three_pools(space):
    space.policy(pool("base", 5), pool("middle", 20, nodes="elastic"), pool("elastic"))
    space.apply(deployment(10))
    space.settled(base=5, middle=5)
    for replicas, wanted in (
        (40, {"base": 5, "middle": 20, "elastic": 15}),
        (18, {"base": 5, "middle": 13}),
        (4, {"base": 4}),
    ):
        space.scale(replicas)
        space.settled(**wanted)


def test_54_to_zero_and_back(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.scale(0)
    space.settled()
    space.scale(20)
    space.settled(base=5, elastic=15)
    assert space.ranks() == list(range(1, 21))


def test_04_elastic_pods_that_still_wait_for_their_instances_go_first(space):
    slow = {"metadata": {"annotations": {"simulated.overspill.dev/start-seconds": "600"}}}
    space.policy(pool("base", 5), pool("elastic", patch=slow))
    space.apply(deployment(50))
    space.settled(base=5, elastic=45, running=False)
    space.world.until(lambda: space.ready() == {"base": 5}, what="base pods that are ready, and they alone")
    space.scale(30)
    space.settled(base=5, elastic=25, running=False)
    assert space.ready() == {"base": 5}


@pytest.mark.timeout(900)
def test_07_a_hundred_deployments_each_with_a_policy(space):
    names = [f"web-{number}" for number in range(100)]
    target = {"apiVersion": "apps/v1", "kind": "Deployment"}
    space.apply(*(policy(name=name, targetRef={**target, "name": name}) for name in names))
    space.apply(*(deployment(5, name=name) for name in names))
    space.settled(base=500, seconds=240)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("space", [100], indirect=True)
def test_08_ten_thousand_pods(space, record_property):
    """The counts are the watch's until the end: to list so many again and again would be the load."""
    world, ledger = space.world, space.ledger
    extra = [world.node(f"elastic-{number}", pods=4000) for number in (1, 2)]
    try:
        world.ready_nodes("elastic-1", "elastic-2")
        space.policy(pool("base", 100), pool("elastic"))
        space.apply(deployment(10_000))
        world.until(
            lambda: (ledger.count("base"), ledger.count("elastic"), ledger.ready) == (100, 9900, 10_000),
            seconds=1800,
            what="ten thousand pods",
        )
        record_property("gate wait p99, seconds, less than", world.current.gate_seconds(0.99))
        patched = space.ledger.writes
        survivors = {uid for uid, seen in list(ledger.pods.items()) if seen.pool == "base"}
        space.scale(100)
        world.until(lambda: len(ledger.pods) == 100, seconds=900, what="a hundred pods")
        assert set(ledger.pods) == survivors
        assert space.ledger.writes == patched, "scale-in takes no write"
        space.settled(base=100)
        space.scale(0)
        space.settled()
    finally:
        for process in extra:
            process.stop()
        space.cluster.kubectl("delete", "node", "elastic-1", "elastic-2")


def test_09_a_minute_of_creates_that_a_quota_refuses(space):
    space.policy()
    space.quota(pods=0)
    space.apply(deployment(20))
    space.refused_for(60)
    assert not space.pods()
    space.quota(pods=100)
    space.nudged(20)
    space.settled(base=5, elastic=15)


def test_10_another_webhook_refuses_every_second_create(space):
    """It stands behind the gate: what it refuses has been through ours."""
    space.policy()
    with RefusingWebhook(space) as webhook:
        space.apply(deployment(20))
        space.nudged(20)
        space.settled(base=5, elastic=15)
        assert webhook.refused >= 10


@pytest.mark.timeout(600)
def test_53_a_thousand_pods_of_one_replica_set(space):
    """Where a counter at admission goes wrong in the end (OpenKruise 2129)."""
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    while (before := len(space.ledger.everybody)) < 1000:
        space.kubectl("delete", "pods", "-l", "app=web", "--wait=false", "--force", "--grace-period=0")
        space.world.until(
            lambda goal=before + 10: len(space.ledger.everybody) >= goal, what="successors of those deleted"
        )
    space.settled(base=5, elastic=15)


def test_three_pools_by_percentages_and_minima(space):
    """Not a row of the matrix: the minimum of a later pool is filled before the first one's maximum."""
    space.policy(pool("base", 5), pool("elastic", minReplicas=2))
    space.apply(deployment(4))
    space.settled(base=2, elastic=2)
    space.scale(9)
    space.settled(base=5, elastic=4)
    space.scale(3)
    space.settled(base=1, elastic=2)
