"""Addresses, stock, rates, sizes, prices, pages, image caches: the sums of a region."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from overspill.backends.eci import specs as backend_specs
from overspill.emulator.bill import Line, total
from overspill.emulator.faults import Fault, Faults
from overspill.emulator.images import ImageCache, best_match, created
from overspill.emulator.network import Network, Pool, SecurityGroup, VSwitch, parse_vswitch
from overspill.emulator.paging import page
from overspill.emulator.prices import price
from overspill.emulator.quotas import RATES, Bucket, Rate, Throttle, parse_rates
from overspill.emulator.refusals import Refused
from overspill.emulator.specs import SPECS, parse_spec, round_up, sells_regional, spec_name
from overspill.emulator.stock import Stock, parse_limits
from overspill.errors import Misconfigured


@pytest.mark.parametrize(("prefix", "size"), [(29, 4), (24, 252), (20, 4092)])
def test_usable_addresses(prefix, size):
    network = IPv4Network(f"10.0.0.0/{prefix}")
    pool = Pool(network)
    taken = {pool.take() for _ in range(size)}
    assert len(taken) == size
    assert pool.take() is None
    reserved = {str(network[n]) for n in (0, -1, -2, -3)}
    assert not taken & reserved
    assert not pool.claim(str(network[-3]))


@given(st.lists(st.one_of(st.none(), st.integers(1, 4)), max_size=60))
def test_no_address_is_given_twice(script):
    pool, held = Pool(IPv4Network("10.0.0.0/29")), set()
    for release in script:
        address = f"10.0.0.{release}"
        if release is None:
            taken = pool.take()
            assert (taken is None) == (len(held) == 4)
            assert taken not in held
            held |= {taken} - {None}
        elif address in held:
            pool.release(address)
            held.discard(address)
        else:
            assert pool.claim(address)
            held.add(address)
        assert pool.free == 4 - len(held)


def test_an_address_of_ones_own_choice():
    network = Network(
        "vpc", vswitches=[VSwitch("a", "z", "10.0.0.0/24")], security_groups=[SecurityGroup("g")]
    )
    candidates, group = network.candidates("a"), network.security_group("")
    assert network.place(candidates, group, address="10.0.0.77").address == "10.0.0.77"
    for address in ("10.0.0.77", "10.9.9.9", "10.0.0.254", "nonsense"):
        with pytest.raises(Refused) as refused:
            network.place(candidates, group, address=address)
        assert refused.value.code == "PrivateIpAddress.Already.InUse"


@pytest.mark.parametrize(
    "text", ["a", "a=z", "a=z:10.0.0.0", "a=z:10.0.0.0/30", "a=z:10.0.0.0/8", "=z:10.0.0.0/24"]
)
def test_vswitches_that_are_none(text):
    with pytest.raises(Misconfigured):
        parse_vswitch(text)


@pytest.mark.parametrize(
    ("asked", "given_"),
    [
        ((0.1, 0.1), (0.25, 0.5)),
        ((0.25, 0.6), (0.25, 1)),
        ((1.5, 3), (2, 4)),
        ((7, 13), (8, 16)),
        ((64, 512), (64, 512)),
    ],
)
def test_rounding(asked, given_):
    assert round_up(*asked, regional=False) == given_


def test_some_regions_sell_sizes_in_between_though_not_as_spot_instances():
    assert round_up(7, 13, regional=True) == (8, 14)
    assert round_up(5, 7, regional=True) == (6, 8)
    assert sells_regional("cn-hangzhou", spot_strategy="NoSpot")
    assert not sells_regional("cn-hangzhou", spot_strategy="SpotAsPriceGo")
    assert not sells_regional("eu-central-1", spot_strategy="")


@given(st.floats(0.01, 64), st.floats(0.01, 512), st.booleans())
def test_the_backend_asks_for_what_the_service_gives(cpu, memory, regional):
    """Two tables of one page, made apart."""
    asked = backend_specs.round_up(backend_specs.Size(cpu, memory), regional=regional)
    try:
        assert round_up(cpu, memory, regional=regional) == (asked.cpu, asked.memory)
    except Refused:
        assert asked is None


@given(st.floats(0.01, 64), st.floats(0.01, 512))
def test_rounding_is_enough_and_on_sale(cpu, memory):
    try:
        spec = round_up(cpu, memory, regional=False)
    except Refused:
        assert not any(c >= cpu and max(sizes) >= memory for c, sizes in SPECS.items())
    else:
        assert spec[0] >= cpu
        assert spec[1] >= memory
        assert spec[1] in SPECS[spec[0]]
        assert parse_spec(spec_name(spec), regional=False) == spec


def test_the_price_of_the_documentation():
    assert price(cpu=2, memory=4).trade == pytest.approx(0.00012252)
    assert price(cpu=2, memory=4, category="economy").trade < price(cpu=2, memory=4).trade
    assert price(cpu=2, memory=4, spot_strategy="SpotAsPriceGo").trade < price(cpu=2, memory=4).trade
    assert price(cpu=2, memory=4, storage=20).trade > price(cpu=2, memory=4).trade


def test_bucket():
    bucket = Bucket(Rate(2, 10), now=0)
    assert [bucket.take(0), bucket.take(0)] == [0, 0]
    assert bucket.take(0) == pytest.approx(0.1)
    assert bucket.take(0.1) == 0
    assert bucket.take(100) == 0


def test_rates_of_ones_own():
    given = parse_rates(["ListUsage=0.5:3"], actions={"ListUsage"})
    throttle = Throttle(RATES | given)
    for _ in range(3):
        throttle.check("ListUsage", now=0)
    with pytest.raises(Refused, match="throttling of ListUsage") as refused:
        throttle.check("ListUsage", now=0)
    assert refused.value.retry_after == 2000
    throttle.check("DescribeRegions", now=0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ListUsage", "is no rate"),
        ("ListUsage=5", "is no rate"),
        ("ListUsage=0:1", "is no rate"),
        ("ListUsage=1:nan", "is no rate"),
        ("List=1:1", "is the rate of no action; there are ListUsage"),
    ],
)
def test_rates_that_are_none(text, told):
    with pytest.raises(Misconfigured, match=told):
        parse_rates([text], actions={"ListUsage"})


def test_stock():
    stock = Stock(parse_limits(["z/2.0-4.0Gi=1", "y/*=0"]))
    assert stock.has("z", "2.0-4.0Gi")
    stock.take("z", "2.0-4.0Gi")
    assert not stock.has("z", "2.0-4.0Gi")
    assert stock.has("z", "1.0-2.0Gi")
    assert not stock.has("y", "1.0-2.0Gi")
    stock.release("z", "2.0-4.0Gi")
    assert stock.left("z", "2.0-4.0Gi") == 1
    with pytest.raises(Misconfigured):
        parse_limits(["z=1"])


class Item(Struct, frozen=True):
    seq: int


@given(st.sets(st.integers(1, 500), max_size=60), st.integers(1, 20), st.sets(st.integers(1, 500)))
def test_pages_while_items_go(numbers, limit, leaving):
    """Whoever is there from first to last page is listed exactly once."""
    items = [Item(seq) for seq in sorted(numbers)]
    listed: list[int] = []
    token = ""
    while True:
        found = page(items, limit=limit, token=token)
        listed += [item.seq for item in found.items]
        assert len(found.items) <= limit
        items = [item for item in items if item.seq not in leaving]
        token = found.next_token
        if not token:
            break
    assert len(listed) == len(set(listed))
    assert numbers - leaving <= set(listed)


@given(st.lists(st.integers(1, 100), unique=True), st.integers(1, 7))
def test_pages_of_a_filter(numbers, limit):
    items = [Item(seq) for seq in sorted(numbers)]
    even = [item for item in items if item.seq % 2 == 0]
    listed, token = [], ""
    while True:
        found = page(items, limit=limit, token=token, keep=lambda item: item.seq % 2 == 0)
        assert found.total == len(even)
        listed += found.items
        token = found.next_token
        if not token:
            break
    assert listed == even


def cache(name, *images, at=0.0):
    return ImageCache(id=name, name=name, images=images, created_at=at, snapshot=f"s-{name}", group="")


def test_image_caches():
    old, new = cache("old", "web", "db:1"), cache("new", "web:latest", at=5)
    assert best_match([old, new], ["web"]) is new
    assert best_match([old, new], ["web", "db:1"]) is old
    assert best_match([old, new], ["other"]) is None
    assert [created(old, now=t, seconds=10).status for t in (0, 5, 10)] == ["Preparing", "Creating", "Ready"]


def test_faults_are_met_as_often_as_told():
    faults = Faults(seed=1)
    number = faults.add(Fault(kind="error", actions=("A",), count=2))
    met = [bool(faults.meet(action, "error")) for action in ("B", "A", "A", "A")]
    assert met == [False, True, True, False]
    faults.clear(number)
    faults.add(Fault(kind="error", probability=0.5))
    often = sum(bool(faults.meet("A", "error")) for _ in range(1000))
    assert 400 < often < 600


def test_bill():
    lines = [Line("a", "a", 2, 4, 0.5, 0.0, 10.0), Line("b", "b", 1, 2, 0.25, 90.0)]
    bill = total(lines, now=100.0)
    assert (bill.groups, bill.running, bill.cost, bill.per_hour) == (2, 1, 7.5, 900.0)
    assert bill.vcpu_hours == pytest.approx(30 / 3600)
