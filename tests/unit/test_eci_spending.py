"""What groups cost, as metrics: prices of what runs, a counter that never falls, a bounded number of series."""

from msgspec import structs

from overspill.backends.eci import spending
from overspill.backends.eci.answers import StatusEntry
from overspill.backends.eci.groups import Tracked
from overspill.backends.eci.spending import Spending
from overspill.backends.eci.status import Group
from overspill.model.cost import COST_ANNOTATION, CURRENCY_ANNOTATION, PRICE_ANNOTATION
from overspill.model.observation import Observation
from overspill.model.work import Identity


def group(namespace, *, price="0.5", status="Running", **written) -> Tracked:
    who = Identity("cluster", "vn-0", namespace, "web", f"uid-{namespace}")
    annotations = {PRICE_ANNOTATION: price, CURRENCY_ANNOTATION: "CNY", **written} if price else {}
    return Tracked(
        Group(id=f"eci-{namespace}", identity=who, containers=(), created_at=100.0),
        Observation(who, 100.0, (), annotations=annotations),
        0.0,
        StatusEntry(f"eci-{namespace}", status),
    )


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
