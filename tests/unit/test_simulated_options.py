"""Settings of the simulated backend, its distributions and its addresses."""

import statistics

import pytest

from overspill.backends.simulated.addresses import AddressPool, node_cidr
from overspill.backends.simulated.options import Delay, Options, chance, load_options, parse_delay
from overspill.errors import Misconfigured


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("2", Delay("constant", 2.0)),
        ("0.5", Delay("constant", 0.5)),
        (" uniform(1, 3) ", Delay("uniform", 1.0, 3.0)),
        ("normal(2,0.5)", Delay("normal", 2.0, 0.5)),
        ("exponential(3)", Delay("exponential", 3.0)),
    ],
)
def test_delays_that_can_be_read(text, delay):
    assert parse_delay(text) == delay


@pytest.mark.parametrize("text", ["", "-1", "soon", "uniform(1)", "normal(2)", "uniform(1,2", "1s", "nan"])
def test_delays_that_cannot(text):
    with pytest.raises(ValueError, match="is no time"):
        parse_delay(text)


@pytest.mark.parametrize(
    ("delay", "mean", "least", "most"),
    [
        (Delay("constant", 2.0), 2.0, 2.0, 2.0),
        (Delay("uniform", 1.0, 3.0), 2.0, 1.0, 3.0),
        (Delay("normal", 2.0, 0.5), 2.0, 0.0, 5.0),
        (Delay("exponential", 3.0), 3.0, 0.0, 40.0),
    ],
)
def test_draws_follow_their_distribution(delay, mean, least, most):
    drawn = [delay.draw(lambda number=number: chance("seed", number)) for number in range(4000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.05)
    assert least <= min(drawn)
    assert max(drawn) <= most


def test_a_draw_depends_on_its_parts_alone():
    assert chance(1, "uid", "start") == chance(1, "uid", "start")
    assert len({chance(1, "uid", "start"), chance(2, "uid", "start"), chance(1, "uid", "stop")}) == 3


def test_a_constant_asks_for_no_luck():
    assert Delay("constant", 1.0).draw(lambda: pytest.fail("asked")) == 1.0


def test_options_may_come_as_text():
    assert load_options({"stock": "10", "crash_rate": "0.5", "start_seconds": "uniform(1,2)"}) == Options(
        stock=10, crash_rate=0.5, start_seconds="uniform(1,2)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "colour.*its options are seed, cidr"),
        ({"start_seconds": "soon"}, "'soon' is no time"),
        ({"crash_rate": "1.5"}, "crash_rate must be from 0 to 1"),
        ({"stock": "many"}, "stock"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(Misconfigured, match=message):
        load_options(options)


def test_an_address_is_reused_last():
    pool = AddressPool("10.0.0.0/29")
    first = [pool.take() for _ in range(4)]
    assert first == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.give_back("10.0.0.2")
    assert [pool.take() for _ in range(4)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2", ""]


def test_addresses_of_version_6():
    assert AddressPool("fd00::/64").take() == "fd00::1"


@pytest.mark.parametrize("cidr", ["10.0.0.0/31", "10.0.0.0/33", "10.0.0.1/24", "everywhere"])
def test_ranges_without_an_address(cidr):
    with pytest.raises(Misconfigured, match="option cidr"):
        AddressPool(cidr)


def test_numbered_nodes_have_ranges_of_their_own():
    ranges = {node_cidr(f"virtual-node-eci-{number}") for number in range(128)}
    assert len(ranges) == 128
    assert node_cidr("virtual-node-eci-0") == "100.64.0.0/17"
    assert node_cidr("edge") == node_cidr("edge")
    for cidr in [*ranges, node_cidr("edge")]:
        AddressPool(cidr)
