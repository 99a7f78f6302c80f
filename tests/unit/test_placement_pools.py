"""How a growing workload fills its pools, and which pool a pod gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import placing
from overspill.placement.pools import FULL, Assignment, FillOrder, Refusal, choose_pool


def order(*pools, **spec):
    return FillOrder(placing.policy(*pools, **spec).spec)


@pytest.mark.parametrize(
    ("pools", "targets"),
    [
        pytest.param(
            [placing.pool("base", 5), placing.pool("elastic")],
            {0: (0, 0), 3: (3, 0), 5: (5, 0), 6: (5, 1), 50: (5, 45)},
            id="base of five",
        ),
        pytest.param(
            [placing.pool("base", 5), placing.pool("spot", 20), placing.pool("elastic")],
            {4: (4, 0, 0), 10: (5, 5, 0), 18: (5, 13, 0), 40: (5, 20, 15)},
            id="three pools",
        ),
        pytest.param(
            [placing.pool("base", "30%"), placing.pool("elastic")],
            {1: (1, 0), 5: (2, 3), 7: (3, 4), 10: (3, 7), 33: (10, 23), 50: (15, 35)},
            id="a percentage, rounded up",
        ),
        pytest.param(
            [placing.pool("base", "50%"), placing.pool("spot", "30%"), placing.pool("elastic")],
            {1: (1, 0, 0), 2: (1, 1, 0), 5: (3, 2, 0), 10: (5, 3, 2)},
            id="several percentages",
        ),
        pytest.param(
            [placing.pool("base", 0), placing.pool("elastic")], {3: (0, 3)}, id="a pool that is drained"
        ),
        pytest.param(
            [placing.pool("base", 8, minReplicas=2), placing.pool("spot", minReplicas=3)],
            {2: (2, 0), 5: (2, 3), 11: (8, 3), 12: (8, 4)},
            id="minima first",
        ),
        pytest.param([placing.pool("base", 2), placing.pool("spot", 1)], {9: (2, 1)}, id="no room for all"),
    ],
)
def test_targets(pools, targets):
    filled = order(*pools)
    assert {replicas: filled.targets(replicas) for replicas in targets} == targets


@pytest.mark.parametrize(
    ("pools", "spec", "targets"),
    [
        ([placing.pool("base", 5), placing.pool("elastic")], {}, (5, 1_999_999_995)),
        ([placing.pool("base", "30%"), placing.pool("elastic")], {}, (600_000_000, 1_400_000_000)),
        ([placing.pool("base", 5), placing.pool("spot", 5)], {}, (5, 5)),
        (
            [placing.pool("base", 5), placing.pool("spot", 5)],
            {"whenExhausted": "FirstPool"},
            (1_999_999_995, 5),
        ),
    ],
)
@pytest.mark.timeout(10)
def test_no_number_is_too_large_to_be_spread(pools, spec, targets):
    assert order(*pools, **spec).targets(2_000_000_000) == targets


def test_first_pool_takes_what_no_other_takes():
    filled = order(placing.pool("base", 2), placing.pool("spot", 1), whenExhausted="FirstPool")
    assert filled.targets(9) == (8, 1)
    assert filled.slot(0, 8) == 9


def test_places_that_never_come_are_not_looked_for():
    filled = order(placing.pool("base", "60%"), placing.pool("spot", "40%"), placing.pool("elastic"))
    assert filled.slot(2, 1) is None
    assert order(placing.pool("base"), placing.pool("elastic")).slot(1, 1) is None


limits = st.one_of(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.lists(st.integers(0, 100), min_size=1, max_size=4)
    .filter(lambda each: sum(each) <= 100)
    .map(lambda each: [f"{percent}%" for percent in each]),
)


@given(limits, st.booleans())
def test_one_pool_grows_at_each_step_and_ranks_name_it(most, more):
    pools = [placing.pool(f"p{index}", limit) for index, limit in enumerate(most)]
    filled = order(*pools, *([placing.pool("rest")] if more else []))
    before = filled.targets(0)
    for replicas in range(1, 60):
        now = filled.targets(replicas)
        place = filled.place(replicas)
        if place is None:
            assert now == before
            break
        grown = [index for index, count in enumerate(now) if count != before[index]]
        assert grown == [place[0]]
        assert now[place[0]] == place[1] == before[place[0]] + 1
        assert filled.slot(*place) == replicas
        assert all(
            count <= (limit if isinstance(limit, int) else -(-int(limit[:-1]) * replicas // 100))
            for count, limit in zip(now, most, strict=False)
        )
        before = now


@pytest.mark.parametrize(
    ("pools", "spec", "most"),
    [
        ([placing.pool("base", "30%"), placing.pool("elastic")], {}, (3, None)),
        ([placing.pool("base", "30%", minReplicas=4), placing.pool("elastic")], {}, (4, None)),
        ([placing.pool("base", "60%"), placing.pool("spot", "40%"), placing.pool("rest")], {}, (6, 4, 0)),
        (
            [placing.pool("base", "30%"), placing.pool("spot", "30%")],
            {"whenExhausted": "FirstPool"},
            (None, 3),
        ),
        ([placing.pool("base", 5), placing.pool("elastic")], {}, (5, None)),
    ],
)
def test_how_many_of_ten_a_pool_may_have(pools, spec, most):
    filled = order(*pools, **spec)
    assert tuple(filled.most(index, 10) for index in range(len(pools))) == most


BUSY = Refusal("CoolingDown", "is left alone")
SPARED = Refusal("CoolingDown", "is left alone", spares=True)
CONFLICT = Refusal("PoolConflict", "has no node that fits", lasting=True)


@pytest.mark.parametrize(
    ("free", "refused", "wanted"),
    [
        pytest.param([3, 6], {}, Assignment(0, 3), id="the lowest rank"),
        pytest.param([9, 6], {}, Assignment(1, 6, ()), id="a gap further on"),
        pytest.param([None, 6], {}, Assignment(1, 6, ((0, FULL),)), id="full"),
        pytest.param([3, 6], {0: BUSY}, Assignment(1, 6, ((0, BUSY),)), id="in trouble"),
        pytest.param([3, None], {0: BUSY}, Assignment(None, 0, ((0, BUSY), (1, FULL))), id="wait for it"),
        pytest.param([3, 6], {0: SPARED}, Assignment(1, 6, ((0, SPARED),)), id="spared"),
        pytest.param([3, None], {0: SPARED}, Assignment(0, 3), id="spared, but the only one with room"),
        pytest.param(
            [3, 6],
            {0: SPARED, 1: SPARED},
            Assignment(1, 6, ((0, SPARED),)),
            id="the last of those that are spared",
        ),
        pytest.param(
            [3, 6],
            {0: BUSY, 1: SPARED},
            Assignment(1, 6, ((0, BUSY),)),
            id="spared, and the other takes nobody",
        ),
        pytest.param(
            [3, 6],
            {0: SPARED, 1: CONFLICT},
            Assignment(None, 0, ((0, SPARED), (1, CONFLICT))),
            id="spared, and fits nowhere else",
        ),
        pytest.param([None, None], {}, Assignment(None, 0, ((0, FULL), (1, FULL))), id="nothing left"),
        pytest.param(
            [None, 6], {1: CONFLICT}, Assignment(0, 0, ((0, FULL), (1, CONFLICT))), id="fits nowhere else"
        ),
        pytest.param(
            [3, 6],
            {0: BUSY, 1: CONFLICT},
            Assignment(None, 0, ((0, BUSY), (1, CONFLICT))),
            id="wait, not exceed",
        ),
        pytest.param(
            [3, 6],
            {0: CONFLICT, 1: CONFLICT},
            Assignment(None, 0, ((0, CONFLICT), (1, CONFLICT))),
            id="no pool fits",
        ),
    ],
)
def test_choose_pool(free, refused, wanted):
    assert choose_pool(len(free), free.__getitem__, refused) == wanted
