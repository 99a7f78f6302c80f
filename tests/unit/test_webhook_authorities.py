"""Which authorities are kept, which one signs, and how they stand in a Secret."""

import datetime as dt
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from overspill import pki
from overspill.webhook.authorities import Content, bundle, content_of, read, renewed, signer

LIFE = dt.timedelta(days=100)
DAY = 86400.0


def after(authorities, days, *, began):
    now = began + days * DAY
    kept = renewed(authorities, now=now, life=LIFE)
    return kept, signer(kept, now=now, life=LIFE)


def test_the_only_authority_signs_at_once_and_is_kept():
    began = time.time()
    kept, signs = after((), 0, began=began)
    assert kept == (signs,)
    assert after(kept, 59, began=began) == (kept, signs)


def test_a_successor_is_trusted_before_it_signs_and_outlives_the_first():
    began = time.time()
    (first,), _ = after((), 0, began=began)
    second = pki.new_authority("later", life=LIFE + dt.timedelta(days=61))  # as if made then
    kept = (first, second)
    for days, wanted, who in (
        (62, kept, first),
        (80, kept, first),
        (82, kept, second),
        (101, (second,), second),
    ):
        assert after(kept, days, began=began) == (wanted, who), days
    again = renewed((second,), now=began + 122 * DAY, life=LIFE)
    assert (again[0], len(again)) == (second, 2)


def test_expired_authorities_are_replaced():
    began = time.time()
    first, _ = after((), 0, began=began)
    kept, signs = after(first, 101, began=began)
    assert first[0] not in kept
    assert kept == (signs,)


def test_a_secret_holds_them_in_order_and_tells_nothing():
    authorities = (pki.new_authority("a"), pki.new_authority("b"))
    content = content_of(authorities)
    assert read(content) == authorities
    assert bundle(authorities) == content.certificates
    assert "PRIVATE" not in repr(content) + repr(authorities)


def of_another_kind():
    """An authority as openssl makes them unless told otherwise."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Content(certificate.public_bytes(pem), key.private_bytes(pem, *plain))


def test_a_spoilt_secret_holds_none():
    one, other = pki.new_authority("a"), pki.new_authority("b")
    assert read(Content()) == ()
    assert read(Content(one.certificate, b"")) == ()
    assert read(Content(one.certificate, other.key)) == ()
    assert read(of_another_kind()) == ()
    assert read(Content(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", one.key)) == ()
