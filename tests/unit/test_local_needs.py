"""What is missing is named whole, before anything is started."""

import pytest

from overspill.errors import Misconfigured
from overspill.local import needs
from overspill.local.needs import check_needs, missing_packages
from overspill.local.plan import Plan


def plan(workers, backend):
    return Plan(
        name="x",
        workers=workers,
        virtual_nodes=1,
        backend=backend,
        tuned=False,
        network="10.200.0.0/16",
        link="ovs0",
        ports={},
    )


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine on which nothing is installed; returns a function that installs."""
    monkeypatch.setattr(needs, "PATH", str(tmp_path))
    for name in ("WORKER", "PODMAN"):
        table = {key.replace("/usr", str(tmp_path)): value for key, value in getattr(needs, name).items()}
        monkeypatch.setattr(needs, name, table)

    def install(name):
        (tmp_path / name).touch(mode=0o755)

    return install


def test_a_control_plane_alone_needs_nothing(bare):
    assert missing_packages(plan(0, "simulated")) == []


def test_only_what_this_cluster_needs_is_missing(bare):
    machine = {"iproute2", "nftables", "util-linux"}
    assert set(missing_packages(plan(0, "podman"))) == machine | {
        "podman",
        "runc",
        "conmon",
        "netavark",
        "catatonit",
    }
    assert "podman" not in missing_packages(plan(1, "simulated"))
    assert "containernetworking-plugins" in missing_packages(plan(1, "simulated"))


def test_what_is_installed_is_not_missing(bare):
    bare("podman")
    assert "podman" not in missing_packages(plan(0, "podman"))


def test_the_error_says_what_to_install_and_what_works_without(bare):
    with pytest.raises(Misconfigured, match=r"(?s)apt-get install .*podman.*--workers 0 --backend simulated"):
        check_needs(plan(1, "podman"))


def test_this_machine_needs_nothing_for_a_control_plane():
    check_needs(plan(0, "simulated"))
