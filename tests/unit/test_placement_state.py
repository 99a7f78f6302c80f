"""A policy's state: seats that were given, seen, taken back, carried over."""

import pytest

import placing
from overspill import names
from overspill.placement.cooldown import Cooldowns
from overspill.placement.decide import Surroundings, cost_of, decide
from overspill.placement.nodes import Node, NodeMeta
from overspill.placement.pools import Assignment
from overspill.placement.ranks import SURPLUS
from overspill.placement.state import PolicyState

READY = [{"type": "Ready", "status": "True"}]
NODES = {
    "own": Node(NodeMeta("own", labels={"pool": "own"})),
    "virtual": Node(NodeMeta("virtual", labels=placing.VIRTUAL)),
}


def state_of(*pods, policy=None):
    state = PolicyState(policy or placing.policy())
    for pod in pods:
        state.apply(pod)
    return state


def run(state, *, cooldowns=None, **around):
    around = Surroundings(node=NODES.get, nodes=NODES.values, **around)
    return decide(state, cooldowns or Cooldowns(), around)


def seats(state):
    return {uid: (seat.pool, seat.rank) for uid, seat in state.seats.items()}


def test_seven_pods_get_five_and_two_in_the_order_of_their_age():
    pods = [placing.gated(f"p{n}", created=f"2026-01-01T00:00:0{9 - n}Z") for n in range(7)]
    state = state_of(*pods)
    run(state)
    assert seats(state) == {f"p{6 - n}": (0 if n < 5 else 1, n + 1) for n in range(7)}
    assert state.totals == [5, 2]


def test_an_old_event_does_not_give_a_second_seat():
    pod = placing.gated("p")
    state = state_of(pod)
    run(state)
    state.apply(pod)
    assert run(state).placed == []
    state.apply(placing.placed("p", "base", 1))
    assert seats(state) == {"p": (0, 1)}
    assert state.seats["p"].settled


def test_what_another_assigner_wrote_goes_before_what_was_decided_here():
    state = state_of(placing.gated("p"))
    run(state)
    state.apply(placing.placed("p", "elastic", 6))
    assert seats(state) == {"p": (1, 6)}
    assert state.totals == [0, 1]


def test_a_rank_that_another_assigner_changed_is_believed_unless_ours_is_on_its_way():
    state = state_of(placing.placed("a", "base", 1), placing.placed("b", "base", 1))
    run(state)
    state.apply(placing.placed("b", "base", 1, version=2))
    assert seats(state)["b"] == (0, 2)
    state.apply(placing.placed("b", "base", 2, version=3))
    state.apply(placing.placed("b", "base", 1, version=4))
    assert seats(state)["b"] == (0, 1)
    assert run(state).touched == ["b"]


def test_a_rank_that_two_have_is_set_right():
    state = state_of(placing.placed("a", "base", 1), placing.placed("b", "base", 1))
    assert run(state).touched == ["b"]
    assert seats(state) == {"a": (0, 1), "b": (0, 2)}


def test_a_rank_that_two_have_is_set_right_even_if_one_was_still_on_its_way():
    state = state_of(placing.gated("a"))
    run(state)
    state.apply(placing.placed("b", "base", 1, created="2025-01-01T00:00:00Z"))
    assert run(state).touched == []
    state.apply(placing.placed("a", "base", 1))
    assert run(state).touched == ["a"]
    assert seats(state) == {"a": (0, 2), "b": (0, 1)}


def test_a_freed_place_is_given_again_before_a_new_one():
    pods = [placing.placed(f"p{n}", "base" if n <= 5 else "elastic", n) for n in range(1, 9)]
    state = state_of(*pods)
    state.remove("p2")
    state.remove("p7")
    state.apply(placing.gated("x", created="2026-01-01T00:00:01Z"))
    state.apply(placing.gated("y", created="2026-01-01T00:00:02Z"))
    state.apply(placing.gated("z", created="2026-01-01T00:00:03Z"))
    run(state)
    assert [seats(state)[uid] for uid in "xyz"] == [(0, 2), (1, 7), (1, 9)]


def test_a_pod_that_ends_or_is_being_deleted_leaves_its_place():
    state = state_of(placing.placed("a", "base", 1), placing.placed("b", "base", 2))
    state.apply(placing.placed("a", "base", 1, phase="Succeeded"))
    state.apply(placing.placed("b", "base", 2, deleted="2026-01-01T00:00:00Z"))
    assert state.totals == [0, 0]
    assert list(state.ending) == ["b"]


def test_a_policy_may_count_pods_that_are_being_deleted():
    policy = placing.policy(counting={"terminating": "Count"})
    state = state_of(placing.placed("b", "base", 2, deleted="2026-01-01T00:00:00Z"), policy=policy)
    assert state.totals == [1, 0]


def test_an_edit_takes_back_what_was_not_sent():
    state = state_of(*(placing.gated(f"p{n}") for n in range(6)))
    run(state)
    state.seats["p0"].sent = True
    after = state_of(
        *state.pods.values(), policy=placing.policy(placing.pool("base", 2), placing.pool("elastic"))
    )
    after.carry_over(state)
    assert seats(after) == {"p0": (0, 1)}
    run(after)
    assert after.totals == [2, 4]


def test_adoption_by_node_counts_surplus_as_the_first_to_go():
    pods = [
        placing.decoded(placing.manifest(f"p{n:02}", gated=False, node="own" if n < 12 else "virtual"))
        for n in range(20)
    ]
    state = state_of(*pods)
    made = run(state)
    assert state.totals == [12, 8]
    assert sorted(made.touched) == [pod.metadata.uid for pod in pods]
    ranks = [state.seats[pod.metadata.uid].rank for pod in pods]
    assert ranks == [1, 2, 3, 4, 5, *range(SURPLUS + 1, SURPLUS + 8), *range(6, 14)]


def test_pods_of_before_may_be_left_out():
    policy = placing.policy(counting={"existingPods": "Ignore"})
    state = state_of(placing.decoded(placing.manifest("p", gated=False, node="own")), policy=policy)
    assert run(state).touched == []
    assert state.totals == [0, 0]


def test_revisions_are_counted_apart_and_may_be_bounded_together():
    old = [placing.placed(f"o{n}", "base", n, owner="web-old") for n in range(1, 6)]
    new = [placing.gated(f"n{n}", owner="web-new") for n in range(6)]
    state = state_of(*old, *new)
    run(state)
    assert state.totals == [10, 1]
    state = state_of(*old, *new, policy=placing.policy(rollout={"maxSurge": 2}))
    run(state)
    assert state.totals == [7, 4]


def test_costs_of_an_old_revision_let_its_base_go_first():
    state = state_of(placing.placed("b", "base", 1), placing.placed("e", "elastic", 6))
    base, elastic = state.seats["b"], state.seats["e"]
    now, then = Surroundings(), Surroundings(is_old=lambda name: name == "web-1")
    assert cost_of(state, base, now) > cost_of(state, elastic, now)
    assert cost_of(state, base, then) < cost_of(state, elastic, then) == cost_of(state, elastic, now)


@pytest.mark.parametrize(
    "spec",
    [
        {"scaleIn": {"manageDeletionCost": False}},
        {"targetRef": {"kind": "Job", "apiVersion": "batch/v1", "name": "j"}},
    ],
)
def test_costs_that_are_not_ours_to_write(spec):
    state = state_of(placing.placed("b", "base", 1), policy=placing.policy(**spec))
    assert cost_of(state, state.seats["b"], Surroundings()) is None


def stateful(name, **fields):
    return placing.gated(name, owner="db", kind="StatefulSet", **fields)


NUMBERED = placing.policy(
    placing.pool("base", 3), placing.pool("elastic"), targetRef={"kind": "StatefulSet", "name": "db"}
)


def test_a_stateful_sets_pods_go_by_number():
    state = state_of(*(stateful(f"db-{n}") for n in range(5, 11)), policy=NUMBERED)
    run(state, first_ordinal=5)
    assert {uid: pool for uid, (pool, _) in seats(state).items()} == {
        "db-5": 0,
        "db-6": 0,
        "db-7": 0,
        "db-8": 1,
        "db-9": 1,
        "db-10": 1,
    }
    state.remove("db-6")
    state.remove("db-9")
    state.apply(stateful("db-9"))
    run(state, first_ordinal=5)
    assert seats(state)["db-9"][0] == 1


@pytest.mark.timeout(10)
def test_no_number_of_a_stateful_sets_pod_is_too_large():
    state = state_of(stateful("db-9999999999"), policy=NUMBERED)
    run(state)
    assert seats(state)["db-9999999999"][0] == 1


def test_a_pool_in_trouble_is_passed_then_probed_with_one_pod():
    cooldowns = Cooldowns()
    cooldowns.begin("base", until=100.0, why="no node")
    state = state_of(placing.gated("a"))
    run(state, cooldowns=cooldowns, now=99.0)
    assert seats(state) == {"a": (1, 6)}
    for name in "bc":
        state.apply(placing.gated(name))
    run(state, cooldowns=cooldowns, now=100.0)
    assert (seats(state)["b"], seats(state)["c"]) == ((0, 1), (1, 7))
    assert cooldowns.works("base", "b")
    state.apply(placing.gated("d"))
    run(state, cooldowns=cooldowns, now=101.0)
    assert seats(state)["d"] == (0, 2)


def test_a_pod_that_fits_only_the_full_pool_stays_there_and_goes_first():
    pods = [placing.gated(f"p{n}", nodeSelector={"pool": "own"}) for n in range(7)]
    state = state_of(*pods)
    made = run(state)
    assert state.totals == [7, 0]
    assert sorted(seat.rank for seat in state.seats.values())[5:] == [SURPLUS + 1, SURPLUS + 2]
    assert [dict(how.passed)[1].reason for _, how in made.placed[5:]] == ["PoolConflict", "PoolConflict"]


def test_pods_wait_where_no_pool_has_room_and_share_the_reason():
    policy = placing.policy(placing.pool("base", 1), placing.pool("elastic", 1))
    state = state_of(*(placing.gated(f"p{n}") for n in range(4)), policy=policy)
    made = run(state)
    assert state.totals == [1, 1]
    assert set(state.waiting) == set(made.waiting) == {"p2", "p3"}
    assert {how.pool for how in made.waiting.values()} == {None}


def test_a_removed_pools_pods_are_the_first_to_go():
    state = state_of(placing.placed("a", "gone", 1), placing.placed("b", "base", 1))
    run(state)
    assert state.seats["a"].rank > SURPLUS
    assert state.totals == [1, 0]


def test_gate_is_found_wherever_it_stands():
    assert placing.gated("p", gates=[{"name": "other/gate"}]).gated
    assert not placing.placed("p", "base", 1, gates=[{"name": "other/gate"}]).gated
    assert names.GATE == "overspill.dev/assign"


def test_a_rank_that_was_given_back_is_not_on_its_way():
    """Another assigner's later change is believed then."""
    state = state_of(placing.placed("a", "base", 1), placing.placed("b", "base", 1))
    run(state)
    assert seats(state)["b"] == (0, 2)
    state.apply(placing.placed("c", "base", 2, created="2025-01-01T00:00:00Z"))
    state.remove("a")
    run(state)
    assert seats(state) == {"b": (0, 1), "c": (0, 2)}
    state.apply(placing.placed("b", "base", 3, version=2))
    assert seats(state)["b"] == (0, 3)


def test_a_rank_that_was_overwritten_before_it_was_seen_is_owed():
    state = state_of(placing.placed("a", "base", 1), placing.placed("b", "base", 1))
    run(state)
    state.apply(placing.placed("b", "base", 9, version=3))  # version 2 had ours, and nobody saw it
    assert state.owes("b")
    state.apply(placing.placed("b", "base", 2, version=4))
    assert not state.owes("b")


def test_a_rank_that_an_edit_gave_to_another_pool_is_not_given_twice():
    """Found by the model: the pod with rank 4 is on its way to elastic when the base grows to 4."""
    three = placing.policy(placing.pool("base", 3), placing.pool("elastic"))
    state = state_of(*(placing.gated(f"p{n}") for n in range(6)), policy=three)
    run(state)
    for uid in ("p0", "p1", "p2", "p3"):
        state.seats[uid].sent = True
    four = placing.policy(placing.pool("base", 4), placing.pool("elastic"))
    after = state_of(*state.pods.values(), policy=four)
    after.carry_over(state)
    run(after)
    assert after.totals[0] <= 4
    ranks = [seat.rank for seat in after.seats.values()]
    assert len(set(ranks)) == len(ranks)
    after.remove("p3")
    after.apply(placing.gated("x"))
    run(after)
    assert seats(after)["x"] == (0, 4)


def test_pods_with_a_pool_and_no_rank_are_ranked():
    """As the guard leaves them, which counts nothing."""
    state = PolicyState(placing.policy())
    labels = {names.POOL_LABEL: "elastic", names.POLICY_LABEL: "web"}
    for number in range(3):
        state.apply(placing.decoded(placing.manifest(f"p{number}", gated=False, labels=labels)))
    for number in range(5):
        state.apply(placing.placed(f"q{number}", "base", number + 1))
    assert sorted(state.straighten()) == ["p0", "p1", "p2"]
    assert sorted(seat.rank for seat in state.seats.values()) == list(range(1, 9))


def test_a_place_beyond_the_limit_that_is_free_again_is_the_next_one_given():
    state = state_of(*(placing.gated(f"p{n}") for n in range(4)))
    for n in range(3):
        state.give(state.pods[f"p{n}"], Assignment(0))
    state.remove("p1")
    assert state.give(state.pods["p3"], Assignment(0)).rank == SURPLUS + 2


@pytest.mark.parametrize("terminating", ["Ignore", "Count"])
def test_pods_that_replica_sets_lack_are_desired(terminating):
    policy = placing.policy(counting={"terminating": terminating})
    state = state_of(placing.gated("p"), placing.placed("q", "base", 1), policy=policy)
    state.apply(placing.gated("job", owner="job", kind="Job"))
    assert state.desired({"web-1": 3}.get) == 4
    for name in ("p", "q"):
        state.apply(placing.placed(name, "base", 1, deleted="2026-01-01T00:00:00Z"))
    assert state.desired({"web-1": 3}.get) == 4
    for name in ("p", "q"):
        state.remove(name)
    assert state.desired({"web-1": 3}.get) == 4
    assert state.desired({}.get) == 1, "the ReplicaSet is gone"


def test_pods_that_are_of_another_policy_now_are_not_missed():
    state = state_of(placing.gated("p"))
    state.remove("p")
    assert state.desired({"web-1": 3}.get) == 0
