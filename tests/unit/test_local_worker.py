"""Small decisions about the worker and its image."""

import pytest

from overspill.local.agentimage import runtime_distributions
from overspill.local.worker import name_servers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.1\nsearch x\nnameserver 127.0.0.53\n", ["192.0.2.1", "127.0.0.53"]),
        ("# nameserver 192.0.2.1\nnameserver fd00::1\nnameserver\n", []),
        ("", []),
    ],
)
def test_name_servers_of_a_resolv_conf(text, servers):
    assert name_servers(text) == servers


def test_the_agents_image_holds_what_runs_and_nothing_that_tests():
    names = {package.name.lower() for package in runtime_distributions("overspill")}
    assert {"overspill", "aiohttp", "yarl", "msgspec", "cryptography", "uvloop"} <= names
    assert not names & {"pytest", "mypy", "ruff", "hatchling"}
