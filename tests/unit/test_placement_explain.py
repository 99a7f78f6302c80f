"""What `overspill placement explain` says of a pod."""

import placing
import pytest

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
                "It is still held by other scheduling gates: example.com/quota; ask whoever put them there.",
            ],
        ),
        (
            placing.placed("p", "elastic", 6, node="virtual-0", conditions=[NO_STOCK]),
            None,
            [
                "It is in pool elastic (1 pod of web-1), on node virtual-0, with keep rank 6:",
                "web-1 keeps it as long as it has 6 pods or more, if all are ready alike.",
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
    assert list(explain(state, pod, assignment)) == [FIRST, *said]
