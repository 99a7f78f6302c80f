"""Plans: what is chosen, what is kept, what is refused."""

import itertools
import os
from ipaddress import IPv4Address, IPv4Network

import pytest

from overspill.errors import Conflict, Misconfigured, NotFound
from overspill.local import plan as plans
from overspill.local.paths import cluster_paths
from overspill.local.plan import Options, Plan, load_plan, lock, make_plan, no_cloud

SIMULATED = {"workers": 0, "backend": "simulated"}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "overspill"


def as_user(monkeypatch, uid):
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def a_plan(**changes):
    values = {
        "name": "x",
        "workers": 1,
        "virtual_nodes": 1,
        "backend": "podman",
        "tuned": False,
        "network": "10.200.0.0/16",
        "link": "ovs0",
        "ports": {"apiserver": 20001},
    }
    return Plan(**values | changes)


def test_the_ranges_of_a_cluster_lie_in_its_network_and_apart():
    plan = a_plan()
    ranges = [plan.link_range, plan.pod_range, plan.cloud_range, plan.service_range]
    assert all(each.subnet_of(IPv4Network(plan.network)) for each in ranges)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(ranges, 2))
    assert IPv4Address(plan.dns_address) in plan.service_range
    assert {IPv4Address(plan.host_address), IPv4Address(plan.node_address)} <= set(plan.link_range.hosts())


def test_without_a_machine_the_control_plane_stays_on_loopback():
    assert a_plan(**SIMULATED).endpoint == "https://127.0.0.1:20001"
    assert a_plan(workers=0).endpoint == "https://10.200.0.1:20001"


def test_a_plan_is_written_before_it_is_used_and_kept():
    first = make_plan(Options(name="a", **SIMULATED))
    assert load_plan("a") == first
    assert make_plan(Options(name="a")) == first
    assert cluster_paths("a").plan.stat().st_mode & 0o077 == 0


def test_side_by_side_clusters_share_neither_network_nor_port():
    one, other = (make_plan(Options(name=name, **SIMULATED)) for name in "ab")
    assert not IPv4Network(one.network).overlaps(IPv4Network(other.network))
    assert not set(one.ports.values()) & set(other.ports.values())
    assert one.link != other.link


def test_only_the_number_of_virtual_nodes_may_change():
    before = make_plan(Options(name="a", **SIMULATED))
    assert before.virtual_nodes == 1
    after = make_plan(Options(name="a", virtual_nodes=3))
    assert (after.virtual_nodes, after.ports) == (3, before.ports)
    with pytest.raises(Conflict, match=r"workers = 0.*overspill down --name a"):
        make_plan(Options(name="a", workers=1))
    with pytest.raises(Conflict, match="backend"):
        make_plan(Options(name="a", backend="podman"))


@pytest.mark.parametrize(
    ("uid", "given", "expected"),
    [
        (0, {}, (1, "eci")),
        (0, {"workers": 0}, (0, "eci")),
        (0, {"tuned": True}, (0, "simulated")),
        (1000, {}, (0, "simulated")),
    ],
)
def test_defaults_are_what_the_user_may_do(monkeypatch, uid, given, expected):
    as_user(monkeypatch, uid)
    monkeypatch.setattr("shutil.which", lambda program, path: f"/usr/bin/{program}")
    plan = make_plan(Options(name="a", **given))
    assert (plan.workers, plan.backend) == expected


def test_without_podman_pods_are_simulated_and_it_is_said_why(monkeypatch):
    as_user(monkeypatch, 0)
    monkeypatch.setattr("shutil.which", lambda program, path: None)
    assert make_plan(Options(name="a")).backend == "simulated"
    assert "make setup" in no_cloud()
    as_user(monkeypatch, 1000)
    assert "root" in no_cloud()


@pytest.mark.parametrize(
    ("uid", "given", "error", "said"),
    [
        (1000, {"workers": 1}, Misconfigured, "--workers 0 --backend simulated"),
        (1000, {"backend": "podman"}, Misconfigured, "need root"),
        (0, {"backend": "fargate"}, Misconfigured, "eci, podman, simulated"),
        (0, {"backend": "eci", "tuned": True}, Misconfigured, "--tuned"),
        (1000, {"backend": "eci", "workers": 0}, Misconfigured, "need root"),
        (0, {"workers": 2}, Misconfigured, "--workers is 0 or 1"),
        (0, {"tuned": True, "workers": 1}, Misconfigured, "--tuned"),
    ],
)
def test_what_cannot_be_had_is_refused_and_leaves_no_plan(monkeypatch, uid, given, error, said):
    as_user(monkeypatch, uid)
    with pytest.raises(error, match=said):
        make_plan(Options(name="a", **given))
    assert not cluster_paths("a").plan.exists()


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "-a", "a" * 33])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(Misconfigured, match="cannot name a cluster"):
        make_plan(Options(name=name))


def test_a_folder_too_long_for_sockets_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("x" * 100)))
    with pytest.raises(Misconfigured, match="XDG_STATE_HOME"):
        cluster_paths("a")


def test_an_unknown_cluster_names_those_that_are():
    make_plan(Options(name="here", **SIMULATED))
    with pytest.raises(NotFound, match=r"no cluster 'gone' \(there are: here\)"):
        load_plan("gone")


def test_a_broken_plan_says_how_to_clear_it_and_is_in_nobodys_way(state):
    (state / "a").mkdir(parents=True)
    (state / "a" / "cluster.json").write_text("{")
    with pytest.raises(Misconfigured, match="overspill down --name a"):
        load_plan("a")
    make_plan(Options(name="b", **SIMULATED))


def test_a_relative_state_home_is_ignored_as_the_standard_says(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    assert plans.state_root().is_absolute()


def test_one_command_at_a_time_works_on_a_cluster():
    with lock("a"), pytest.raises(Conflict, match="another overspill command"), lock("a"):
        pass
    with lock("b"), lock("a"):
        pass
