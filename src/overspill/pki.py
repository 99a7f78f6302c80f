"""Certificate authorities, certificates, requests for them, and signing keys.

In: names, addresses, validity. Out: PEM as `KeyPair` or `KeyRequest`. Pure but for randomness and the clock.
Invariant: a private key never shows in a repr; every leaf says what it may be used for.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

__all__ = [
    "KeyPair",
    "KeyRequest",
    "days_left",
    "expires_at",
    "is_pair",
    "issue",
    "new_authority",
    "new_request",
    "new_signing_key",
    "subject_names",
]

AUTHORITY_LIFE = dt.timedelta(days=3650)
LEAF_LIFE = dt.timedelta(days=365)
# Clocks of containers and hosts differ a little; a certificate that is valid from "now" may be refused.
BACKDATED = dt.timedelta(minutes=5)


class KeyPair(Struct, frozen=True):
    """A certificate (or public key) and its private key, as PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "KeyPair(…)"


class KeyRequest(Struct, frozen=True):
    """A private key, a request for its certificate, and one that it signed itself, as PEM."""

    key: bytes
    request: bytes
    self_signed: bytes

    def __repr__(self) -> str:
        return "KeyRequest(…)"


def new_authority(common_name: str, *, life: dt.timedelta = AUTHORITY_LIFE) -> KeyPair:
    """A self-signed authority that signs leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, ())
    builder = (
        _builder(name, name, key.public_key(), life=life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(
    authority: KeyPair,
    *,
    common_name: str,
    organizations: Iterable[str] = (),
    hosts: Iterable[str] = (),
    server: bool = False,
    client: bool = False,
    life: dt.timedelta = LEAF_LIFE,
) -> KeyPair:
    """A leaf signed by `authority`; `hosts` are DNS names and IP addresses it serves."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(common_name, organizations), issuer.subject, key.public_key(), life=life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(_purposes(server=server, client=client))), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    names = [_host(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return KeyPair(_pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key))


def new_request(*, common_name: str, organizations: Iterable[str], hosts: Iterable[str]) -> KeyRequest:
    """A key for a server that is reached by `hosts`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, organizations)
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    certificate = (
        _builder(name, name, key.public_key(), life=LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
    )
    return KeyRequest(
        key=_key_pem(key),
        request=request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        self_signed=_pem(certificate.sign(key, hashes.SHA256())),
    )


def new_signing_key() -> KeyPair:
    """A key for service-account tokens: public half as `certificate`."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return KeyPair(public, _key_pem(key))


def days_left(certificate: bytes, *, now: dt.datetime | None = None) -> float:
    """Days until a PEM certificate expires; negative when it has."""
    end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (end - (now or dt.datetime.now(dt.UTC))) / dt.timedelta(days=1)


def expires_at(certificate: bytes) -> float:
    """When a PEM certificate expires, in seconds since 1970."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def is_pair(pair: KeyPair) -> bool:
    """Whether it is a certificate and the private key of it, of a kind that is made here."""
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
        certificate = x509.load_pem_x509_certificate(pair.certificate)
    except (ValueError, TypeError):
        return False
    return isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()


def subject_names(certificate: bytes) -> set[str]:
    """DNS names and addresses that a PEM certificate serves."""
    try:
        names = (
            x509.load_pem_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, *, life: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str, organizations: Iterable[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _purposes(*, server: bool, client: bool) -> Iterable[x509.ObjectIdentifier]:
    if server:
        yield ExtendedKeyUsageOID.SERVER_AUTH
    if client:
        yield ExtendedKeyUsageOID.CLIENT_AUTH


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
