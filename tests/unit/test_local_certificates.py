"""The files of a cluster's PKI: complete, private, renewed when needed."""

import msgspec
import pytest
import yaml
from cryptography import x509

from overspill import pki
from overspill.local import certificates
from overspill.local.certificates import ensure_certificates
from overspill.local.paths import Paths
from overspill.local.plan import Plan

PLAN = Plan(
    name="x",
    workers=1,
    virtual_nodes=1,
    backend="podman",
    tuned=False,
    network="10.200.0.0/16",
    link="ovs0",
    ports={"apiserver": 20001},
)


@pytest.fixture
def paths(tmp_path):
    made = Paths(tmp_path)
    assert ensure_certificates(made, PLAN)
    return made


def test_a_second_time_changes_nothing(paths):
    before = {file: file.stat().st_mtime_ns for file in paths.pki.iterdir()}
    assert not ensure_certificates(paths, PLAN)
    assert {file: file.stat().st_mtime_ns for file in paths.pki.iterdir()} == before


def test_keys_and_kubeconfigs_are_the_owners_alone(paths):
    private = [*paths.pki.glob("*.key"), *paths.pki.glob("*.kubeconfig"), paths.kubeconfig]
    assert len(private) > 10
    assert {file.stat().st_mode & 0o777 for file in private} == {0o600}


def test_the_apiserver_serves_all_its_names(paths):
    names = pki.subject_names((paths.pki / "apiserver.crt").read_bytes())
    assert {"kubernetes.default.svc", "127.0.0.1", PLAN.host_address, str(PLAN.service_range[1])} <= names


def test_the_kubelet_is_a_node_to_the_node_authorizer(paths):
    certificate = x509.load_pem_x509_certificate((paths.pki / "kubelet.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=system:node:worker-0,O=system:nodes"


def test_the_administrators_kubeconfig_leads_to_the_apiserver(paths):
    config = yaml.safe_load(paths.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == PLAN.endpoint
    assert config["current-context"] == "x"


def test_only_what_is_missing_is_made_anew(paths):
    admin, authority = ((paths.pki / name).read_bytes() for name in ("admin.crt", "ca.crt"))
    (paths.pki / "scheduler.crt").unlink()
    assert ensure_certificates(paths, PLAN)
    assert (paths.pki / "scheduler.crt").exists()
    assert (paths.pki / "admin.crt").read_bytes() == admin
    assert (paths.pki / "ca.crt").read_bytes() == authority


def test_a_leaf_near_its_end_is_renewed(paths, monkeypatch):
    before = (paths.pki / "admin.crt").read_bytes()
    monkeypatch.setattr(certificates, "RENEW_DAYS", 400)
    assert ensure_certificates(paths, PLAN)
    assert (paths.pki / "admin.crt").read_bytes() != before


def test_a_leaf_follows_the_address_it_serves(paths):
    assert ensure_certificates(paths, msgspec.structs.replace(PLAN, network="10.201.0.0/16"))
    assert "10.201.0.1" in pki.subject_names((paths.pki / "apiserver.crt").read_bytes())
