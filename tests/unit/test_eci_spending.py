"""What groups cost, as metrics: prices of what runs, a counter that never falls, a bounded number of series."""

from decimal import Decimal

import pytest
from msgspec import structs

from overspill.backends.eci import spending
from overspill.backends.eci.answers import GroupEntry, StatusEntry, Tag
from overspill.backends.eci.groups import Groups, Tracked
from overspill.backends.eci.spending import Spending
from overspill.backends.eci.status import Group
from overspill.backends.eci.tags import tags
from overspill.backends.feed import Feed
from overspill.model.cost import COST_ANNOTATION, CURRENCY_ANNOTATION, PRICE_ANNOTATION
from overspill.model.observation import Observation
from overspill.model.work import Identity

WHO = Identity("cluster", "vn-0", "shop", "web", "uid")


def group(namespace, *, price="0.5", status="Running", **written) -> Tracked:
    who = Identity("cluster", "vn-0", namespace, "web", f"uid-{namespace}")
    annotations = {PRICE_ANNOTATION: price, CURRENCY_ANNOTATION: "CNY", **written} if price else {}
    return Tracked(
        Group(id=f"eci-{namespace}", identity=who, containers=(), created_at=100.0),
        Observation(who, 100.0, (), annotations=annotations),
        0.0,
        StatusEntry(f"eci-{namespace}", status),
    )


def test_what_has_failed_without_a_known_end_costs_no_more():
    now = [110.0]
    failed = group("shop", status="Failed")
    failed.ended_at = 105.0
    spent = Spending([failed], clock=lambda: now[0])
    assert values(spent)["overspill_spend"] == {"shop": 2.5}
    now[0] += 86_400
    assert values(spent)["overspill_spend"] == {"shop": 2.5}


def no_groups():
    return Groups(
        Feed(),
        remove=lambda _: None,
        quote=lambda _: {},
        complete=lambda _, seen: seen,
        holds=lambda _: False,
    )


@pytest.mark.parametrize(
    ("status", "told", "seconds"),
    [("Failed", "failed_time", 100), ("Expired", "expired_time", 100), ("ScheduleFailed", "failed_time", 0)],
)
def test_the_end_that_eci_tells_is_what_its_price_counts_to(status, told, seconds):
    """Containers that never ran, or were taken with their instance, have none. A group without an instance costs nothing."""
    group_tags = tuple(Tag(each["Key"], each["Value"]) for each in tags(WHO, more={}))
    entry = GroupEntry(
        "eci-1",
        cpu=1,
        memory=2,
        tags=group_tags,
        creation_time="2026-11-30T10:00:00Z",
        **{told: "2026-11-30T10:01:40Z"},
    )
    groups = no_groups()
    groups.detail(entry, StatusEntry("eci-1", status))
    (found,) = groups
    written = found.seen.annotations
    assert Decimal(written.get(COST_ANNOTATION, 0)) == seconds * Decimal(written[PRICE_ANNOTATION])


def test_a_group_is_taken_to_end_when_it_is_first_seen_so():
    groups = no_groups()
    known = groups.add(group("shop").group)
    groups.update(StatusEntry("eci-shop", "Running"))
    assert not known.ended_at
    groups.update(StatusEntry("eci-shop", "Failed"))
    first = known.ended_at
    assert first
    groups.update(StatusEntry("eci-shop", "Failed"))
    assert known.ended_at == first


def values(spent: Spending) -> dict[str, dict[str, float]]:
    return {
        family.name: {sample.labels["namespace"]: sample.value for sample in family.samples}
        for family in spent.collect()
    }


def test_price_of_what_runs_and_money_of_all():
    ended = group("ended", status="Succeeded", **{COST_ANNOTATION: "7"})
    groups = [group("shop"), ended, group("waits", status="Scheduling"), group("unknown", price="")]
    found = values(Spending(groups, clock=lambda: 110.0))
    assert found["overspill_price_per_second"] == {"shop": 0.5, "unknown": 0}
    assert found["overspill_spend"] == {"shop": 5, "ended": 7, "waits": 0, "unknown": 0}


def test_money_of_what_is_gone_is_kept_and_the_counter_never_falls():
    now = [110.0]
    groups = [group("shop")]
    spent = Spending(groups, clock=lambda: now[0])
    assert values(spent)["overspill_spend"] == {"shop": 5}
    [running] = groups
    cheaper = structs.replace(running.seen, annotations=running.seen.annotations | {COST_ANNOTATION: "4.5"})
    running.seen, running.entry = cheaper, StatusEntry("eci-shop", "Succeeded")
    assert values(spent)["overspill_spend"] == {"shop": 5}
    groups.clear()
    spent.gone(running)
    groups.append(group("shop"))
    assert values(spent)["overspill_spend"] == {"shop": 9.5}


def test_the_number_of_series_is_bounded(monkeypatch):
    monkeypatch.setattr(spending, "MOST", 2)
    spent = Spending([group(name) for name in "abcd"], clock=lambda: 110.0)
    assert values(spent)["overspill_spend"] == {"a": 5, "b": 5, "(others)": 10}


def test_what_an_earlier_agent_has_told_of_is_not_told_again():
    """A counter that begins with ten days' money would seem to have earned it all since the last scrape."""
    now = [1000.0]
    ended = group("ended", status="Succeeded", **{COST_ANNOTATION: "451"})  # 902 s, until 1002
    over = group("over", status="Succeeded", **{COST_ANNOTATION: "5"})
    with Spending([group("shop"), ended, over], clock=lambda: now[0]) as spent:
        assert values(spent)["overspill_spend"] == {"shop": 0, "ended": 1, "over": 0}
        now[0] += 10
        assert values(spent)["overspill_spend"] == {"shop": 5, "ended": 1, "over": 0}
