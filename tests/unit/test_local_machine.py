"""What a machine leaves on its host."""

import pytest

from overspill.local import machine
from overspill.local.paths import cluster_paths
from overspill.local.plan import Options, make_plan

NOTE = "ip-forward-was-off"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host that forwards since cluster `a` came up, and has cluster `b`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for setting, constant in (("ip_forward", "IP_FORWARD"), ("mountinfo", "MOUNTS")):
        monkeypatch.setattr(machine, constant, tmp_path / setting)
    (tmp_path / "ip_forward").write_text("1")
    (tmp_path / "mountinfo").write_text("")
    for name in "ab":
        make_plan(Options(name=name, workers=0, backend="simulated"))
    (cluster_paths("a").root / NOTE).touch()
    return tmp_path


async def test_forwarding_is_put_back_with_the_last_machine(host):
    await machine.remove_machine(cluster_paths("a"), None)
    assert (host / "ip_forward").read_text() == "0"


async def test_forwarding_stays_while_another_cluster_has_a_machine(host):
    a, b = map(cluster_paths, "ab")
    (host / "mountinfo").write_text(f"1 2 0:4 x {b.namespaces / 'mnt'} rw - nsfs nsfs rw\n")
    await machine.remove_machine(a, None)
    assert ((host / "ip_forward").read_text(), (b.root / NOTE).exists()) == ("1", True)
    (host / "mountinfo").write_text("")
    await machine.remove_machine(b, None)
    assert (host / "ip_forward").read_text() == "0"
