"""What is free, judged from the kernel's own table and by binding."""

import socket
from ipaddress import IPv4Network

import pytest

from overspill.errors import Misconfigured
from overspill.local.ports import candidate_networks, choose_network, choose_ports, is_free, routed_networks

TABLE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
pm0\t0000FB0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_the_kernels_table_is_read_without_its_default_route():
    assert routed_networks(TABLE) == [IPv4Network("10.251.0.0/16"), IPv4Network("192.0.2.0/24")]


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        ([], "10.200.0.0/16"),
        (["192.168.0.0/16"], "10.200.0.0/16"),
        (["10.200.7.0/24"], "10.201.0.0/16"),
        (["10.200.0.0/15", "10.202.0.1/32"], "10.203.0.0/16"),
        (["10.0.0.0/8"], "172.16.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/13"], "172.24.0.0/16"),
    ],
)
def test_a_network_overlaps_nothing_taken(taken, chosen):
    assert choose_network(map(IPv4Network, taken)) == IPv4Network(chosen)


def test_no_free_network_is_an_error_that_says_so():
    with pytest.raises(Misconfigured, match="no free /16"):
        choose_network([IPv4Network("0.0.0.0/0")])


def test_candidates_are_private_and_distinct():
    candidates = list(candidate_networks())
    assert all(network.is_private for network in candidates)
    assert len(set(candidates)) == len(candidates)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_has_is_not_free(kind, address):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)


def test_ports_are_distinct_and_not_taken():
    first = choose_ports(["a", "b", "c"], set())
    assert len(set(first.values())) == 3
    everything_else = set(range(20000, 30000)) - set(first.values())
    assert set(choose_ports(["x", "y", "z"], everything_else).values()) <= set(first.values())


def test_too_few_ports_is_an_error():
    with pytest.raises(Misconfigured, match="free ports"):
        choose_ports(["a"], set(range(20000, 30000)))
