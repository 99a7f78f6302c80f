"""What is remembered of a policy: pools that cannot run pods, pods that wait too long, moves to earlier pools."""

from functools import cache

import msgspec
import pytest

import placing
from overspill.backends.eci.backend import REFUSED
from overspill.backends.eci.status import NO_ADDRESS, QUOTA, SPOT, UNPLACED
from overspill.backends.eci.status import NO_STOCK as NO_STOCK_AT_ECI
from overspill.model.affinity import Taint
from overspill.placement.annotated import base_replicas, policy_for
from overspill.placement.capacity import Capacity
from overspill.placement.decide import Surroundings
from overspill.placement.managed import Managed
from overspill.placement.nodes import contradiction
from overspill.placement.policy import Policy, PolicyStatus, PoolStatus
from overspill.placement.pools import Refusal
from overspill.placement.workloads import Workload, WorkloadMeta

READY = {"type": "Ready", "status": "True"}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
NO_STOCK = {"type": "InstanceProvisioned", "status": "False", "reason": "NoStock", "message": "sold out"}


def managed(*pods, now=0.0, **spec):
    made = Managed(placing.policy(**spec))
    for pod in pods:
        made.apply(pod, now)
    return made


def look(made, now, *, desired=0, **around):
    return made.look(Surroundings(now=now, **around), desired=desired)


def names_of(pods):
    return sorted(pod.metadata.name for pod in pods)


@pytest.mark.parametrize(
    ("pod", "doomed"),
    [
        pytest.param(placing.placed("p", "base", 1, conditions=[UNSCHEDULABLE]), True, id="unschedulable"),
        *(
            pytest.param(
                placing.placed("p", "base", 1, conditions=[{**NO_STOCK, "reason": reason}], node="n"),
                True,
                id=f"no instance: {reason}",
            )
            for reason in (NO_STOCK_AT_ECI, QUOTA, NO_ADDRESS, SPOT, UNPLACED, REFUSED)
        ),
        pytest.param(
            placing.placed("p", "base", 1, conditions=[{**NO_STOCK, "reason": "Creating"}], node="n"),
            False,
            id="on its way",
        ),
        pytest.param(
            placing.placed("p", "base", 1, conditions=[{**UNSCHEDULABLE, "reason": "SchedulingGated"}]),
            False,
            id="gated",
        ),
        pytest.param(
            placing.placed("p", "base", 1, kind="Job", conditions=[UNSCHEDULABLE]),
            False,
            id="a Job's counts as failed",
        ),
    ],
)
def test_a_pod_that_its_pool_cannot_run_makes_way(pod, doomed):
    made = managed(pod)
    early = look(made, 29.0)
    assert early.doomed == []
    assert not doomed or early.due == pytest.approx(1.0)
    late = look(made, 30.0)
    assert names_of(each for each, _ in late.doomed) == (["p"] if doomed else [])
    assert (made.cooldowns.refusal("base", 31.0) is not None) == doomed


def test_the_time_begins_anew_when_the_pod_was_schedulable_in_between():
    made = managed(placing.placed("p", "base", 1, conditions=[UNSCHEDULABLE]))
    made.apply(placing.placed("p", "base", 1), 20.0)
    made.apply(placing.placed("p", "base", 1, conditions=[UNSCHEDULABLE]), 25.0)
    assert look(made, 40.0).doomed == []
    assert look(made, 55.0).doomed != []


def test_no_pod_makes_way_where_no_other_pool_would_take_its_successor():
    pools = [placing.pool("base", 5), placing.pool("elastic", 0)]
    made = Managed(placing.policy(*pools))
    made.apply(placing.placed("p", "base", 1, conditions=[UNSCHEDULABLE]), 0.0)
    assert look(made, 60.0).doomed == []


def stranded(name, pool, rank):
    return placing.placed(name, pool, rank, conditions=[NO_STOCK], node="n")


def test_the_last_pool_goes_on_taking_pods_where_there_is_no_other():
    made = managed(*(placing.placed(f"b{n}", "base", n, conditions=[READY]) for n in range(1, 6)))
    for number in (6, 7):
        made.apply(stranded(f"e{number}", "elastic", number), 0.0)
    assert look(made, 60.0, desired=7).doomed == []
    assert "sold out" in made.stuck["elastic"]
    made.apply(placing.gated("later"), 61.0)
    assert names_of(pod for pod, _ in look(made, 61.0, desired=8).decisions.placed) == ["later"]
    for number in (6, 7):
        made.remove(f"e{number}")
    look(made, 62.0, desired=6)
    assert made.stuck == {}


def test_no_more_pods_make_way_than_others_take():
    made = managed(*(placing.placed(f"b{n}", "base", n, conditions=[READY]) for n in range(1, 4)))
    for number in range(6, 12):
        made.apply(stranded(f"e{number}", "elastic", number), 0.0)
    assert len(look(made, 60.0, desired=9).doomed) == 2
    for name in ("e6", "e7"):
        made.remove(name)
    assert look(made, 60.1, desired=9).doomed == []  # their successors are on their way
    for name in ("s1", "s2", "s3"):
        made.apply(placing.gated(name), 60.2)
    look(made, 60.2, desired=9)
    assert made.state.totals == [5, 5]  # the third goes to the pool in trouble, there being no other


def test_a_pool_that_is_tried_again_is_given_one_pod():
    made = managed()
    made.cooldowns.begin("base", until=50.0, why="no node")
    for number in range(6, 12):
        made.apply(stranded(f"e{number}", "elastic", number), 0.0)
    assert len(look(made, 60.0, desired=6).doomed) == 1


@pytest.mark.parametrize(("pods", "doomed"), [("0", 0), ("9", 1)])
def test_a_pod_makes_way_only_where_there_is_room_for_it(pods, doomed):
    pools = placing.pool("base", 5, capacityCheck="Simulate"), placing.pool("elastic")
    made = Managed(placing.policy(*pools))
    made.apply(
        placing.placed("e", "elastic", 6, conditions=[UNSCHEDULABLE], nodeSelector=placing.VIRTUAL), 0.0
    )
    left = Capacity([placing.node("n", pods=pods)], [])
    assert len(look(made, 60.0, desired=1, capacity=lambda: left).doomed) == doomed


def test_a_pool_may_be_waited_for():
    made = Managed(placing.policy(placing.pool("base", 5, whenUnschedulable="Wait"), placing.pool("elastic")))
    made.apply(placing.placed("p", "base", 1, conditions=[UNSCHEDULABLE]), 0.0)
    assert look(made, 3600.0).doomed == []


def test_a_cooldown_outlives_the_process_but_not_its_length():
    made = managed()
    until = "2026-01-01T00:01:00Z"
    wall = 1767225600.0  # 2026-01-01T00:00:00Z
    status = PolicyStatus(pools=(PoolStatus("base", until),))
    made.remember(status, wall=wall, now=1000.0)
    assert made.cooldowns.until("base", 1000.0) == pytest.approx(1060.0)
    made.remember(status, wall=wall - 86_400, now=1000.0)  # clocks are a day apart
    assert made.cooldowns.until("base", 1000.0) == pytest.approx(1120.0)


def test_pods_are_let_go_that_waited_too_long():
    made = Managed(
        placing.policy(placing.pool("base", 0), gate={"timeoutSeconds": 30, "onTimeout": "Release"})
    )
    made.apply(placing.gated("p"), 0.0)
    early = look(made, 10.0)
    assert (early.overdue, early.due) == ([], pytest.approx(20.0))
    assert names_of(look(made, 30.0).overdue) == ["p"]
    assert made.released == {"p"}


def test_a_pool_that_a_pod_was_not_let_into_is_tried_again_after_a_minute():
    made = Managed(placing.policy(placing.pool("base", 5)))
    made.apply(placing.gated("p"), 0.0)
    look(made, 0.0)
    made.refuse("p", 0, Refusal("Refused", "was refused: why"), 10.0)
    waits = look(made, 11.0, refused=made.refused)
    assert (waits.decisions.placed, waits.due) == ([], pytest.approx(59.0))
    assert names_of(pod for pod, _ in look(made, 70.0, refused=made.refused).decisions.placed) == ["p"]


def refuse(made):
    made.refuse("p", 0, Refusal("Refused", "was refused: why"), 2.0)


def edit(made):
    made.edit(placing.policy())


def take_the_gate_off(made):
    made.apply(placing.decoded(placing.manifest("p", gated=False)), 2.0)


@pytest.mark.parametrize("lose", [refuse, edit, take_the_gate_off])
def test_a_pool_is_tried_with_another_pod_when_the_first_one_does_not_get_there(lose):
    made = managed(placing.gated("p"))
    made.cooldowns.begin("base", until=1.0, why="no node")
    look(made, 2.0)
    lose(made)
    made.apply(placing.gated("q"), 3.0)
    assert 0 in {how.pool for _, how in look(made, 3.0, refused=made.refused).decisions.placed}


def spread(base, elastic, **fields):
    return [
        *(placing.placed(f"b{n}", "base", n, conditions=[READY], **fields) for n in range(1, base + 1)),
        *(placing.placed(f"e{n}", "elastic", n, conditions=[READY], **fields) for n in range(6, elastic + 6)),
    ]


REBALANCE = {"mode": "Evict", "intervalSeconds": 10, "stabilizationSeconds": 60, "maxUnavailable": 2}


def test_pods_move_to_an_earlier_pool_that_has_had_room_for_long():
    made = managed(*spread(3, 4), rebalance=REBALANCE)
    first = look(made, 0.0, desired=7)
    assert (first.moving, first.due) == ([], pytest.approx(60.0))
    assert names_of(look(made, 60.0, desired=7).moving) == ["e8", "e9"]
    made.remove("e9")
    assert look(made, 65.0, desired=7).moving == []  # not so soon
    assert names_of(look(made, 70.0, desired=7).moving) == ["e8"]  # one is missing already
    assert look(managed(*spread(3, 4)), 600.0, desired=7).moving == []  # not asked for


def test_who_was_asked_to_go_and_is_still_seen_ready_counts_as_gone():
    made = managed(*spread(3, 4), rebalance={**REBALANCE, "stabilizationSeconds": 0, "intervalSeconds": 1})
    assert names_of(look(made, 600.0, desired=7).moving) == ["e8", "e9"]
    assert look(made, 602.0, desired=7).moving == []  # the watch is late
    assert names_of(look(made, 611.0, desired=7).moving) == ["e8", "e9"]  # a budget did not let them go


def test_no_pod_of_a_clone_set_moves_as_long_as_one_before_has_no_successor():
    """How many pods it wants is not known; `desired` is how many there are."""
    clones = {"owner": "web", "kind": "CloneSet"}
    rebalance = {**REBALANCE, "stabilizationSeconds": 0, "intervalSeconds": 1}
    made = managed(*spread(0, 8, **clones), rebalance=rebalance)
    assert names_of(look(made, 600.0, desired=8).moving) == ["e12", "e13"]
    made.apply(placing.placed("e12", "elastic", 12, deleted="2026-01-01T00:00:00Z", **clones), 601.0)
    made.remove("e13")
    assert look(made, 620.0, desired=6).moving == []
    made.apply(placing.placed("b1", "base", 1, conditions=[READY], **clones), 621.0)
    assert names_of(look(made, 622.0, desired=7).moving) == ["e11"]  # one is missing still


def test_a_pod_that_takes_long_to_end_is_missing():
    rebalance = {**REBALANCE, "stabilizationSeconds": 0, "maxUnavailable": 1}
    made = managed(*spread(3, 2), rebalance=rebalance, counting={"terminating": "Count"})
    assert names_of(look(made, 600.0, desired=5).moving) == ["e7"]
    ending = placing.placed("e7", "elastic", 7, conditions=[READY], deleted="2026-01-01T00:00:00Z")
    made.apply(ending, 601.0)
    assert look(made, 620.0, desired=5).moving == []


def test_nobody_moves_without_gain_or_during_a_rollout():
    assert look(managed(*spread(5, 4), rebalance=REBALANCE), 600.0, desired=9).moving == []
    made = managed(*spread(3, 4), rebalance={**REBALANCE, "stabilizationSeconds": 0})
    assert look(made, 600.0, desired=7, is_old=lambda _name: True).moving == []
    made.cooldowns.begin("base", until=700.0, why="no node")
    assert look(made, 600.0, desired=7).moving == []


def test_nobody_moves_to_a_pool_that_has_all_that_a_rollout_lets_it_have():
    made = managed(*spread(5, 0, owner="web-0"), rebalance=REBALANCE, rollout={"maxSurge": 0})
    for number in range(6, 9):
        made.apply(placing.placed(f"n{number}", "elastic", number, conditions=[READY]), 0.0)
    for now in (0.0, 600.0):
        assert look(made, now, desired=8, is_old=lambda name: name == "web-0").moving == []


def test_nobody_moves_to_a_pool_that_has_no_node_for_its_successor():
    nodes = [OWN, placing.node("gpu", group="gpu", **placing.VIRTUAL)]
    made = managed(placing.gated("p", **GPU), rebalance={**REBALANCE, "stabilizationSeconds": 0})
    look(made, 0.0, desired=1, nodes=lambda: nodes)
    made.apply(placing.placed("p", "elastic", 6, conditions=[READY]), 1.0)
    assert look(made, 600.0, desired=1, nodes=lambda: nodes).moving == []
    nodes.append(placing.node("own-gpu", group="gpu"))
    assert names_of(look(made, 700.0, desired=1, nodes=lambda: nodes).moving) == ["p"]


@pytest.mark.parametrize(
    ("template", "nodes", "moved"),
    [
        pytest.param(
            {"nodeSelector": {"zone": "a"}},
            [placing.node("a1", pods="0", zone="a"), placing.node("b1", zone="b")],
            [],
            id="room only where it does not go",
        ),
        pytest.param(
            {"tolerations": [{"key": "own", "operator": "Exists"}]},
            [placing.node("own", taints=[Taint("own", "NoSchedule")])],
            ["p"],
            id="room only where others do not go",
        ),
    ],
)
def test_pods_move_where_their_successors_find_room(template, nodes, moved):
    nodes = [*nodes, placing.node("virtual", zone="a", **placing.VIRTUAL)]
    pools = placing.pool("base", 5, capacityCheck="Simulate"), placing.pool("elastic")
    made = Managed(placing.policy(*pools, rebalance={**REBALANCE, "stabilizationSeconds": 0}))
    made.apply(placing.gated("p", **template), 0.0)
    look(made, 0.0, desired=1, nodes=lambda: nodes)
    assert made.state.totals == [0, 1]
    made.apply(placing.placed("p", "elastic", 6, conditions=[READY], node="virtual"), 1.0)
    outcome = look(made, 600.0, desired=1, nodes=lambda: nodes, capacity=cache(Capacity(nodes, []).copy))
    assert names_of(outcome.moving) == moved


def test_pods_that_find_no_room_on_nodes_look_again_until_there_is_some():
    pools = placing.pool("base", 5, capacityCheck="Simulate"), placing.pool("elastic")
    made = Managed(placing.policy(*pools, rebalance=REBALANCE))
    for pod in spread(3, 4):
        made.apply(pod, 0.0)
    full = Capacity([placing.node("n", pods="0")], [])
    waits = look(made, 0.0, desired=7, capacity=lambda: full)
    assert (waits.moving, waits.due) == ([], pytest.approx(10.0))
    roomy = Capacity([placing.node("n", pods="1")], [])
    assert look(made, 10.0, desired=7, capacity=cache(roomy.copy)).due == pytest.approx(60.0)
    assert names_of(look(made, 70.0, desired=7, capacity=cache(roomy.copy)).moving) == ["e9"]


def shared():
    made = Managed(placing.policy(placing.pool("base", "30%"), placing.pool("elastic")))
    for rank, pool in enumerate("beebeebeee", start=1):  # 3 and 7
        name = {"b": "base", "e": "elastic"}[pool]
        made.apply(placing.placed(f"{name}{rank}", name, rank, conditions=[READY]), 0.0)
    return made


def test_a_percentage_is_a_bound_when_the_other_pools_cannot_run_pods():
    made = shared()
    for rank in (2, 3, 5, 6, 8, 9, 10):
        made.apply(stranded(f"elastic{rank}", "elastic", rank), 0.0)
    assert look(made, 60.0, desired=10).doomed == []  # the base has its 30%
    made.cooldowns.begin("elastic", until=120.0, why="no stock")
    for number in range(10):
        made.apply(placing.gated(f"new{number}"), 61.0)
    look(made, 61.0, desired=20)
    assert made.state.totals == [6, 14]


def test_a_pool_with_a_percentage_takes_as_many_as_it_lacks():
    made = shared()
    made.remove("base1")
    for rank in (2, 3, 5, 6, 8, 9, 10):
        made.apply(stranded(f"elastic{rank}", "elastic", rank), 0.0)
    assert len(look(made, 60.0, desired=9).doomed) == 1


def test_a_cooldown_that_is_edited_ends_as_it_says_now():
    made = managed(placing.placed("a", "base", 1, conditions=[UNSCHEDULABLE]), now=0.0)
    assert look(made, 31.0).doomed
    assert made.cooldowns.until("base", 31.0) == 31.0 + 120
    made.edit(placing.policy(placing.pool("base", 5, cooldownSeconds=10), placing.pool("elastic")))
    look(made, 32.0)
    assert made.cooldowns.until("base", 32.0) == 42.0


def test_pods_fill_what_there_is_and_the_rest_goes_on():
    policy = placing.policy(placing.pool("base", 5, capacityCheck="Simulate"), placing.pool("elastic"))
    made = Managed(policy)
    for number in range(8):
        made.apply(placing.gated(f"p{number}"), 0.0)
    left = Capacity([placing.node("n", pods="3")], [])
    look(made, 0.0, capacity=lambda: left)
    assert made.state.totals == [3, 5]


def test_a_pod_that_is_too_large_holds_no_smaller_one_up():
    policy = placing.policy(
        placing.pool("base", capacityCheck="Simulate"), selector={"matchLabels": {"app": "batch"}}
    )
    made = Managed(policy)
    for second, (name, cpu) in enumerate({"large": "64", "small": "1"}.items()):
        requests = {"resources": {"requests": {"cpu": cpu}}}
        created = f"2026-01-01T00:00:0{second}Z"
        made.apply(placing.gated(name, owner=name, kind="Job", created=created, containers=[requests]), 0.0)
    left = Capacity([placing.node("n", cpu="4")], [])
    assert names_of(pod for pod, _ in look(made, 0.0, capacity=lambda: left).decisions.placed) == ["small"]


def test_pods_that_wait_for_room_look_again_though_nobody_tells_that_there_is_some():
    made = Managed(placing.policy(placing.pool("base", 1, capacityCheck="Simulate")))
    made.apply(placing.gated("p"), 0.0)
    waits = look(made, 2.0)
    assert (waits.decisions.placed, waits.due) == ([], pytest.approx(3.0))
    left = Capacity([placing.node("n")], [])
    assert names_of(pod for pod, _ in look(made, 5.0, capacity=lambda: left).decisions.placed) == ["p"]
    made.apply(placing.gated("q"), 6.0)
    left = Capacity([placing.node("n")], [])
    assert look(made, 6.0, capacity=lambda: left).due is None  # the pool is full: a pod that goes is seen


OWN = placing.node("own")
VIRTUAL = placing.node("virtual", **placing.VIRTUAL)
GPU = {"nodeSelector": {"group": "gpu"}}


def test_a_pod_that_no_node_fits_yet_goes_where_one_may_be_made():
    """An autoscaler makes nodes for pods that find none, not for those that wait at a gate."""
    made = managed()
    for number in range(7):
        made.apply(placing.gated(f"p{number}", **GPU), 0.0)
    look(made, 0.0, nodes=lambda: [OWN, VIRTUAL])
    assert made.state.totals == [
        7,
        0,
    ]  # as if the base had such a node: what fits nowhere else goes beyond its limit
    for number in range(1, 7):
        made.remove(f"p{number}")
    made.apply(placing.placed("p0", "base", 1, conditions=[UNSCHEDULABLE]), 1.0)
    assert (
        look(made, 60.0, nodes=lambda: [OWN, VIRTUAL], desired=1).doomed == []
    )  # no other pool has such a node


def test_a_pod_that_contradicts_every_pool_waits():
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    pools = (
        placing.pool("base", 5, nodeAffinity={"matchExpressions": [zone]}),
        placing.pool("elastic", nodeSelector={"zone": "b"}),
    )
    made = Managed(placing.policy(*pools))
    made.apply(placing.gated("p", nodeSelector={"zone": "c"}), 0.0)
    assert look(made, 0.0, nodes=lambda: [OWN, VIRTUAL]).decisions.placed == []


def test_what_pods_of_one_template_ask_for_is_compared_with_the_nodes_once():
    asked = []

    def nodes():
        asked.append(1)
        return [OWN, VIRTUAL]

    made = managed()
    for number in range(20):
        made.apply(placing.gated(f"p{number}", **GPU), 0.0)
    look(made, 0.0, nodes=nodes)
    assert len(asked) == 1


ELASTIC = placing.policy().spec.pools[1]
ZONE = {"key": "zone", "operator": "In", "values": ["a"]}


def required(*terms):
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    }


@pytest.mark.parametrize(
    ("spec", "nodes", "conflicts"),
    [
        pytest.param({}, [], False, id="no wish"),
        pytest.param(
            {"nodeSelector": {"zone": "a"}},
            [placing.node("v", zone="a", **placing.VIRTUAL)],
            False,
            id="a node fits",
        ),
        pytest.param(
            {"nodeSelector": {"zone": "b"}},
            [placing.node("v", zone="a", **placing.VIRTUAL)],
            True,
            id="no node fits",
        ),
        pytest.param({"nodeSelector": {"zone": "b"}}, [], False, id="no node yet"),
        pytest.param({"nodeSelector": {"type": "own"}}, [], True, id="never a node"),
        pytest.param(
            {"affinity": required({"matchExpressions": [ZONE]})},
            [placing.node("v", zone="b", **placing.VIRTUAL)],
            True,
            id="affinity",
        ),
        pytest.param(
            {
                "affinity": required(
                    {"matchExpressions": [{**ZONE, "key": "type"}]}, {"matchExpressions": [ZONE]}
                )
            },
            [],
            False,
            id="one alternative may do",
        ),
        pytest.param(
            {
                "nodeSelector": {"zone": "a"},
                "affinity": required({"matchExpressions": [{**ZONE, "operator": "NotIn"}]}),
            },
            [],
            True,
            id="the pod contradicts itself",
        ),
    ],
)
def test_contradiction(spec, nodes, conflicts):
    assert (contradiction(placing.gated("p", **spec), ELASTIC, nodes) is not None) == conflicts


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("0", 0), ("30%", "30%"), ("101%", None), ("-1", None), ("", None), ("x", None)],
)
def test_base_replicas(text, value):
    assert base_replicas(text) == value


def test_an_annotation_stands_for_a_policy_that_the_code_understands():
    made = policy_for(Workload(WorkloadMeta("web", "a", "uid-of-web")), 5)
    policy = msgspec.convert(made, Policy)
    assert [pool.name for pool in policy.spec.pools] == ["base", "elastic"]
    assert policy.spec.pools == placing.policy().spec.pools
    assert policy.metadata.owner_references[0].uid == "uid-of-web"


def test_a_pool_works_again_once_its_node_has_made_a_place_for_the_probe():
    """An image that cannot be pulled is nothing that another pool would spare the pod."""
    made = managed(placing.gated("p"))
    made.cooldowns.begin("base", until=1.0, why="no node")
    look(made, 2.0)
    assert made.cooldowns.refusal("base", 3.0).reason == "Probing"
    made.apply(placing.placed("p", "base", 1, node="worker-0"), 3.0)
    assert made.cooldowns.refusal("base", 3.0).reason == "Probing"
    ready = {"type": "PodReadyToStartContainers", "status": "True"}
    made.apply(placing.placed("p", "base", 1, node="worker-0", conditions=[ready]), 4.0)
    assert made.cooldowns.refusal("base", 4.0) is None
