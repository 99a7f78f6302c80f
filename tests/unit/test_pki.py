"""Certificates that OpenSSL itself accepts, and what they say."""

import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from overspill import pki


@pytest.fixture(scope="module")
def authority():
    return pki.new_authority("test-ca")


def shake_hands(server, client, host):
    """A whole TLS handshake in memory; raises ssl.SSLError if either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming = server.wrap_bio(to_server, to_client, server_side=True)
    outgoing = client.wrap_bio(to_client, to_server, server_hostname=host)
    waiting = [incoming, outgoing]
    for _ in range(10):
        waiting = [side for side in waiting if not done(side)]
        if not waiting:
            return incoming
    raise AssertionError("the handshake does not end")


def done(side):
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def context(tmp_path, purpose, pair, trusted):
    made = ssl.SSLContext(purpose)
    (tmp_path / "chain.pem").write_bytes(pair.certificate + pair.key)
    made.load_cert_chain(tmp_path / "chain.pem")
    made.load_verify_locations(cadata=trusted.certificate.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def handshake(tmp_path, authority, *, host, serving, client_authority=None):
    client_pair = pki.issue(
        client_authority or authority, common_name="alice", organizations=["a"], client=True
    )
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, serving, authority)
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, client_pair, authority)
    return shake_hands(server, client, host)


@pytest.mark.parametrize("host", ["kubernetes.default.svc", "10.200.0.1", "127.0.0.1"])
def test_both_sides_are_verified_by_name_and_by_address(tmp_path, authority, host):
    serving = pki.issue(authority, common_name="server", hosts=[host], server=True)
    connection = handshake(tmp_path, authority, host=host, serving=serving)
    subject = dict(pair for part in connection.getpeercert()["subject"] for pair in part)
    assert subject == {"organizationName": "a", "commonName": "alice"}


def test_another_name_is_refused(tmp_path, authority):
    serving = pki.issue(authority, common_name="server", hosts=["10.200.0.1"], server=True)
    with pytest.raises(ssl.SSLError, match="IP address mismatch"):
        handshake(tmp_path, authority, host="10.200.0.2", serving=serving)


def test_a_client_certificate_does_not_serve(tmp_path, authority):
    serving = pki.issue(authority, common_name="server", hosts=["10.200.0.1"], client=True)
    with pytest.raises(ssl.SSLError, match="purpose"):
        handshake(tmp_path, authority, host="10.200.0.1", serving=serving)


def test_a_client_of_another_authority_is_refused(tmp_path, authority):
    serving = pki.issue(authority, common_name="server", hosts=["10.200.0.1"], server=True)
    stranger = pki.new_authority("test-ca")
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, authority, host="10.200.0.1", serving=serving, client_authority=stranger)


def test_an_authority_signs_leaves_only(authority):
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign


def test_a_leaf_says_what_it_is_for(authority):
    leaf = pki.issue(authority, common_name="system:node:w", organizations=["system:nodes"], client=True)
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [
        certificate.subject.get_attributes_for_oid(oid)[0].value
        for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    ]
    assert names == ["system:nodes", "system:node:w"]
    assert pki.subject_names(leaf.certificate) == set()


def test_days_left_counts_down_to_the_end_and_beyond(authority):
    leaf = pki.issue(authority, common_name="x", hosts=["x"], server=True)
    now = dt.datetime.now(dt.UTC)
    assert pki.days_left(leaf.certificate) == pytest.approx(365, abs=0.01)
    assert pki.days_left(leaf.certificate, now=now + dt.timedelta(days=366)) == pytest.approx(-1, abs=0.01)
    assert pki.days_left(authority.certificate) > 3600


def test_a_key_does_not_show_in_a_repr(authority):
    for pair in (authority, pki.new_signing_key()):
        assert b"PRIVATE" in pair.key
        assert "PRIVATE" not in repr(pair)
