"""What `overspill placement explain` says of a pod."""

import pytest

import placing
from overspill.placement.explain import explain
from overspill.placement.pools import Assignment, Refusal
from overspill.placement.ranks import SURPLUS
from overspill.placement.state import PolicyState

FIRST = "Pod p is placed by policy web: up to 5 in base, any number in elastic."
NO_STOCK = {
    "type": "InstanceProvisioned",
    "status": "False",
    "reason": "NoStock",
    "message": "no stock of ecs.c7",
}
FULL = Assignment(None, passed=((0, Refusal("Full", "is full")), (1, Refusal("Cooldown", "is left alone"))))


ROOM = "Pool base comes before it, and has room: new pods go there; it stays."


@pytest.mark.parametrize(
    ("pod", "assignment", "said"),
    [
        (
            placing.placed("p", "base", 1, node="own-0"),
            None,
            [
                "It is in pool base (1 pod of web-1), on node own-0, with keep rank 1:",
                "web-1 keeps it as long as it has 1 pod or more, if all are ready alike.",
            ],
        ),
        (
            placing.placed("p", "elastic", 7, gates=[{"name": "example.com/quota"}]),
            None,
            [
                "It is in pool elastic (1 pod of web-1), with keep rank 7:",
                "web-1 keeps it as long as it has 7 pods or more, if all are ready alike.",
                ROOM,
                "It is still held by other scheduling gates: example.com/quota; ask whoever put them there.",
            ],
        ),
        (
            placing.placed("p", "elastic", 6, node="virtual-0", conditions=[NO_STOCK]),
            None,
            [
                "It is in pool elastic (1 pod of web-1), on node virtual-0, with keep rank 6:",
                "web-1 keeps it as long as it has 6 pods or more, if all are ready alike.",
                ROOM,
                "Its pool cannot run it for now: no stock of ecs.c7.",
            ],
        ),
        (
            placing.placed("p", "base", SURPLUS + 1, node="own-0"),
            None,
            [
                "It is in pool base, beyond the pool's limit: it holds 1 pod of web-1.",
                "At scale-in of web-1 it is among the first to go.",
            ],
        ),
        (
            placing.placed("p", "removed", 3),
            None,
            ["It was placed in a pool that the policy no longer has. It goes first at scale-in."],
        ),
        (
            placing.gated("p"),
            FULL,
            ["It waits, because no pool takes it:", "  pool base is full.", "  pool elastic is left alone."],
        ),
        (
            placing.gated("p"),
            Assignment(0, 1),
            [
                "It waits for the controller to place it; `overspill placement status` tells whether one works."
            ],
        ),
        (
            placing.gated("p", gated=False),
            None,
            ["It was not placed: it was there before the policy, or its gate was taken off by hand."],
        ),
    ],
    ids=["placed", "foreign gate", "no stock", "surplus", "removed pool", "full", "unseen", "ungated"],
)
def test_sentences(pod, assignment, said):
    state = PolicyState(placing.policy())
    state.apply(pod)
    assert list(explain(state, pod, assignment, refused={}, old=False)) == [FIRST, *said]


COOLING = Refusal("CoolingDown", "is left alone for 90 s more: no stock")


@pytest.mark.parametrize(
    ("base", "how", "spec", "sentence"),
    [
        (2, {}, {}, "Pool base comes before it, and has 2 pods, as many as it is to have."),
        (1, {}, {}, ROOM),
        (
            1,
            {},
            {"rebalance": {"mode": "Evict"}},
            "Pool base comes before it, and has room: it is moved there, when rebalance comes to it.",
        ),
        (1, {"refused": {0: COOLING}}, {}, "Pool base is left alone for 90 s more: no stock."),
        (2, {"old": True}, {}, "But web-1 makes room for a newer revision, and its pods in base go first."),
    ],
    ids=["full", "room", "moves", "cooling", "old"],
)
def test_why_it_is_in_no_earlier_pool(base, how, spec, sentence):
    state = PolicyState(placing.policy(placing.pool("base", 2), placing.pool("elastic"), **spec))
    pod = placing.placed("p", "elastic", 3)
    for each in (pod, *(placing.placed(f"b{rank}", "base", rank) for rank in range(1, base + 1))):
        state.apply(each)
    assert sentence in list(explain(state, pod, None, **{"refused": {}, "old": False, **how}))
