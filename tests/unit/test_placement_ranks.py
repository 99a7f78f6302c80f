"""Keep ranks and deletion costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import placing
from overspill.placement.pools import FillOrder
from overspill.placement.ranks import SURPLUS, UNKNOWN, Seat, deletion_cost, rank_of, rerank


def seat(uid, pool, rank, *, settled=True):
    return Seat(uid=uid, group="", revision="web-1", pool=pool, rank=rank, settled=settled)


def order(base=5):
    return FillOrder(placing.policy(placing.pool("base", base), placing.pool("elastic")).spec)


@pytest.mark.parametrize(
    ("base", "seats", "changed"),
    [
        pytest.param(5, [("a", 0, 1), ("b", 0, 4), ("c", 1, 9)], {"b": 2, "c": 6}, id="gaps are closed"),
        pytest.param(2, [("a", 0, 1), ("b", 0, 2), ("c", 1, 3)], {}, id="right already"),
        pytest.param(8, [("a", 0, 1), ("b", 1, 6), ("c", 1, 9)], {"b": 10}, id="the base has grown"),
        pytest.param(
            1,
            [("a", 0, 1), ("b", 0, 2), ("c", 0, 3), ("d", 1, 4)],
            {"b": SURPLUS + 1, "c": SURPLUS + 2, "d": 2},
            id="the base has shrunk",
        ),
        pytest.param(
            2,
            [("a", 0, SURPLUS + 3), ("b", 0, 2), ("c", 0, SURPLUS + 7)],
            {"a": 1},
            id="a surplus pod gets a free place",
        ),
        pytest.param(2, [("a", 0, 1), ("b", 0, 1)], {"b": 2}, id="held twice"),
        pytest.param(
            1, [("a", 0, 0), ("b", UNKNOWN, 7)], {"a": 1, "b": SURPLUS + 1}, id="no rank; no such pool"
        ),
    ],
)
def test_rerank(base, seats, changed):
    assert rerank(order(base), [seat(*each) for each in seats], 2) == changed


def test_what_is_on_its_way_keeps_its_rank():
    assert rerank(order(), [seat("a", 0, 4, settled=False), seat("b", 0, 9)], 2) == {"b": 1}


seats = st.lists(
    st.tuples(st.sampled_from([0, 1, UNKNOWN]), st.sampled_from([*range(12), SURPLUS + 1, SURPLUS + 2])),
    max_size=15,
).map(lambda drawn: [seat(f"u{index}", *each) for index, each in enumerate(drawn)])


@given(seats, st.integers(0, 6))
def test_after_rerank_all_is_well_and_nothing_more_changes(given_seats, base):
    filled = order(base)
    changed = rerank(filled, given_seats, 2)
    for each in given_seats:
        each.rank = changed.get(each.uid, each.rank)
    ranks = [each.rank for each in given_seats]
    assert len(set(ranks)) == len(ranks)
    assert all(each.rank > SURPLUS or filled.place(each.rank)[0] == each.pool for each in given_seats)
    on_base = [each.rank for each in given_seats if each.pool == 0]
    assert sum(rank > SURPLUS for rank in on_base) == max(len(on_base) - base, 0)
    assert rerank(filled, given_seats, 2) == {}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.one_of(st.integers(1, 99_999), st.integers(SURPLUS + 1, SURPLUS + 99))
        ),
        unique_by=lambda each: each[1],
    )
)
def test_costs_of_one_revision_are_distinct_int32_and_go_by_rank(drawn):
    current = {rank: deletion_cost(rank) for _, rank in drawn}
    assert sorted(current, key=current.__getitem__, reverse=True) == sorted(current)
    old = {(pool, rank): deletion_cost(rank, behind=3 - pool) for pool, rank in drawn}
    assert len(set(old.values())) == len(old)
    assert all(-(2**31) <= cost < 2**31 for cost in [*current.values(), *old.values()])


def test_an_old_revision_loses_its_first_pool_first():
    base, spot, elastic = deletion_cost(5, behind=2), deletion_cost(9, behind=1), deletion_cost(30)
    assert base < spot < elastic


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        ("7", 7),
        ("999999", 999_999),
        ("1000000", 0),
        ("99999999", 0),
        ("100000001", SURPLUS + 1),
        ("200000000", 0),
        ("9" * 40, 0),
        ("-1", 0),
        ("", 0),
        ("x", 0),
    ],
)
def test_a_rank_that_is_never_given_is_none(text, rank):
    assert rank_of(text) == rank
