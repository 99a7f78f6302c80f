"""Acceptance scenarios of placement: rollouts, and what comes in the middle of them."""

import collections
import json

import pytest
from placement_ledger import COST, pool_of, revision
from placement_manifests import deployment, policy

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(300)]

SLOW = {"simulated.overspill.dev/start-seconds": "1"}
BROKEN = {"simulated.overspill.dev/pull-failures": "always"}
EVICT = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 1}


def start(space, replicas=20, *, surge="25%", unavailable="25%", annotations=None, **spec):
    """A Deployment that is placed; the name of its revision."""
    space.policy(**spec)
    space.apply(deployment(replicas, surge=surge, unavailable=unavailable, annotations=annotations))
    base = min(replicas, 5)
    space.settled(base=base, elastic=replicas - base)
    return revision(space.pods()[0])


def counts(space, first):
    """How many pods are of the old revision, and of the new one, in each pool."""
    return collections.Counter((revision(each) == first, pool_of(each)) for each in space.pods())


def met_in_the_middle(space, first, least=1):
    """Roll out until there are so many new pods."""
    space.patch_template()
    space.world.until(
        lambda: sum(count for (old, _), count in counts(space, first).items() if not old) >= least,
        what=f"{least} new pods",
    )


def test_20_surge_of_all_pods_counted_by_revision(space):
    start(space, surge="100%", unavailable=0)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)


def test_20_surge_of_all_pods_with_no_surge_of_the_base(space):
    start(space, surge="100%", unavailable=0, rollout={"maxSurge": 0})
    space.patch_template()
    space.rolled_out()
    space.settled(elastic=20)
    assert "base has 0 of 5" in space.condition("Ready")["message"]
    assert space.ledger.peak["base"] == 5
    space.apply(policy(rollout={"maxSurge": 0}, rebalance=EVICT))
    space.settled(base=5, elastic=15)
    assert space.ledger.peak["base"] == 5


def test_21_rollout_of_a_workload_as_large_as_its_base(space):
    start(space, 5)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5)
    assert space.ledger.peak["base"] <= 7


def test_21_rollout_of_a_workload_as_large_as_its_base_with_no_surge_of_it(space):
    """How many of the new pods come before an old one has gone is the Deployment controller's doing."""
    start(space, 5, rollout={"maxSurge": 0})
    space.patch_template()
    space.rolled_out()
    space.world.until(lambda: space.counts().total() == 5, what="five pods")
    found = space.counts()
    assert 3 <= found["base"] <= 5, found
    space.settled(**found)
    assert space.ledger.peak["base"] == 5
    short = f"base has {found['base']} of 5" if found["base"] < 5 else "every pod"
    assert short in space.condition("Ready")["message"]


def test_22_scaled_while_a_rollout_is_paused_and_resumed(space):
    first = start(space, annotations=SLOW)
    met_in_the_middle(space, first, 10)
    space.kubectl("rollout", "pause", "deployment/web")
    space.scale(40)
    space.world.until(lambda: space.counts()[None] == 0 and len(space.pods()) >= 40, what="40 placed pods")
    now = counts(space, first)
    assert min(now[True, "elastic"], now[False, "elastic"]) > 0, "both revisions, as it is paused"
    space.kubectl("rollout", "resume", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=35)


def test_23_rolled_back_in_mid_rollout(space):
    first = start(space, annotations=SLOW)
    met_in_the_middle(space, first, 10)
    space.kubectl("rollout", "undo", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=15)
    assert {revision(each) for each in space.pods()} == {first}
    costs = {pool_of(each): int(each["metadata"]["annotations"][COST]) for each in space.pods()}
    assert 0 < costs["elastic"] < costs["base"], "the elastic ones go first again"


def settles_stuck(space, first, **wanted):
    """The old revision has 15 pods, as `wanted`, all ready; the new one 5 and 5, none ready."""

    def stuck():
        found = counts(space, first)
        assert (found[False, "base"], found[False, "elastic"]) == (5, 5), dict(found)
        assert found[True, "base"] + found[True, "elastic"] == 15, dict(found)
        assert not wanted or found[True, "base"] == wanted["base"], dict(found)
        assert space.ready().total() == 15
        return True

    space.world.until(stuck, what="the old revision with 15 pods, the new one with 5 and 5")


def undone(space):
    space.kubectl("rollout", "undo", "deployment/web")
    space.rolled_out()
    space.settled(base=5, elastic=15)


def test_24_a_rollout_that_never_gets_ready(space):
    """Begun with no pod to spare, so that the first to go go by the costs of an old revision."""
    first = start(space, unavailable=0)
    space.patch_template(**BROKEN)

    def turned():
        old = [each for each in space.pods() if revision(each) == first and pool_of(each) == "base"]
        return len(old) == 5 and all(int(each["metadata"]["annotations"][COST]) < 0 for each in old)

    space.world.until(turned, what="the old base's costs")
    rolling = {"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "25%"}}}}
    space.kubectl("patch", "deployment", "web", "-p", json.dumps(rolling))
    settles_stuck(space, first, base=0)
    undone(space)


def test_24_a_rollout_that_never_gets_ready_from_its_first_step(space):
    """The Deployment's first step down is in the same breath as the new ReplicaSet; which pods it takes is open."""
    first = start(space)
    space.patch_template(**BROKEN)
    settles_stuck(space, first)
    undone(space)


def test_24_a_rollout_that_never_gets_ready_with_the_last_pool_first(space):
    first = start(space, rollout={"oldRevisionScaleIn": "LastPoolFirst"})
    space.patch_template(**BROKEN)
    settles_stuck(space, first, base=5)
    undone(space)


def test_25_scaled_in_mid_rollout(space):
    first = start(space, 10, annotations=SLOW)
    met_in_the_middle(space, first)
    space.scale(30)
    space.rolled_out()
    space.settled(base=5, elastic=25)


def test_26_recreate(space):
    space.policy()
    space.apply(deployment(20, strategy={"type": "Recreate"}))
    space.settled(base=5, elastic=15)
    space.patch_template()
    space.rolled_out()
    space.settled(base=5, elastic=15)
