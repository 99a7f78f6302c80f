"""The adversarial core of the acceptance scenarios of placement, on a real control plane."""

import pytest
from placement_ledger import pool_of
from placement_manifests import deployment, pool

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# A condition that somebody else sets, and pods wait for: a load balancer's, for one.
ATTACHED = "example.com/attached"


def test_02_five_then_six(space):
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    space.scale(6)
    space.settled(base=5, elastic=1)


def test_03_up_and_down_keeps_the_first_five(space):
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    first = {found["metadata"]["uid"] for found in space.pods()}
    space.scale(50)
    space.settled(base=5, elastic=45)
    before = space.ledger.writes
    space.scale(5)
    space.settled(base=5)
    assert {found["metadata"]["uid"] for found in space.pods()} == first
    assert space.ledger.writes == before, "scale-in takes no write"


def test_06_five_hundred_at_once_take_five_hundred_patches(space):
    space.policy()
    before = space.ledger.writes
    space.apply(deployment(500))
    space.settled(base=5, elastic=495, seconds=240)
    assert space.ledger.writes - before == 500
    assert space.ledger.peak["base"] == 5


def test_09_creates_that_a_quota_refuses_leave_no_phantoms(space):
    space.policy()
    space.quota(pods=4)
    space.apply(deployment(20))
    space.refused_for(3)
    space.settled(base=4)
    space.quota(pods=100)
    space.nudged(20)
    space.settled(base=5, elastic=15)


def test_18_rollout_counts_each_revision_for_itself(space):
    space.policy()
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)
    assert space.ledger.peak["base"] <= 10


def test_19_rollout_with_no_surge_of_the_base(space):
    space.policy(rollout={"maxSurge": 0})
    space.apply(deployment(20))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)
    assert space.ledger.peak["base"] == 5


def test_27_base_that_fits_three_spills_after_its_time(space):
    space.policy(
        pool("base", 5, nodes="small", unschedulableTimeoutSeconds=2, cooldownSeconds=3600), pool("elastic")
    )
    space.apply(deployment(20))
    space.settled(base=3, elastic=17)
    survivors = [found for found in space.pods() if pool_of(found) == "base"]
    assert {found["spec"]["nodeName"] for found in survivors} == {"small-0"}
    assert space.is_true("PoolUnschedulable")
    space.scale(0)  # the small node is the other tests' again
    space.settled()


def test_34_base_pods_that_are_not_ready_go_first_and_come_back(space):
    space.policy()
    space.apply(deployment(20, readinessGates=[{"conditionType": ATTACHED}]))
    space.arrived(base=5, elastic=15, running=False)
    for found in space.pods():
        space.set_condition(found["metadata"]["name"], ATTACHED, "True")
    space.settled(base=5, elastic=15)
    for found in [each for each in space.pods() if pool_of(each) == "base"][:2]:
        space.set_condition(found["metadata"]["name"], ATTACHED, "False")
    space.world.until(lambda: space.ready()["base"] == 3, what="two pods of the base that are not ready")
    space.scale(10)
    space.settled(base=3, elastic=7)
    space.scale(14)
    space.settled(base=5, elastic=9, running=False)


@pytest.mark.parametrize("space", [2], indirect=True)
def test_38_a_percentage_holds_at_every_size(space):
    space.policy(pool("base", "30%"), pool("elastic"))
    space.apply(deployment(5))
    space.settled(base=2, elastic=3)
    for replicas, base in ((50, 15), (5, 2), (10, 3), (33, 10), (7, 3), (1, 1)):
        space.ledger.bound = max(space.ledger.count("base"), base)
        space.scale(replicas)
        space.settled(base=base, elastic=replicas - base)


def test_42_a_policy_deleted_in_mid_scale_lets_all_pods_go(space):
    space.policy(pool("base", 5), pool("elastic", 15))
    space.apply(deployment(50))
    space.world.until(lambda: len(space.pods()) == 50, what="50 pods")
    before = {found["metadata"]["uid"] for found in space.pods()}
    space.kubectl("delete", "pp", "web", timeout=30)
    space.world.until(
        lambda: not any(found["spec"].get("schedulingGates") for found in space.pods()),
        seconds=20,
        what="no gate left",
    )
    assert {found["metadata"]["uid"] for found in space.pods()} == before


def test_53_churn_never_breaks_the_bound(space):
    space.policy()
    space.apply(deployment(10))
    space.settled(base=5, elastic=5)
    for _ in range(6):
        space.kubectl("delete", "pods", "-l", "app=web", "--wait=false", "--force", "--grace-period=0")
        space.world.until(lambda: len(space.pods()) >= 5, what="successors")
    space.settled(base=5, elastic=5)
