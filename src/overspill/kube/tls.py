"""Verified connections, and plain words for what is wrong with them.

In: a CA, a credential. Out: an SSL context that verifies chain, name and dates; an explanation that
names certificate and date. Invariant: nothing is ever sent over a connection that is not verified; the
one that `explain` opens only looks at the certificate shown.
"""

import asyncio
import os
import ssl
from datetime import UTC, datetime

from overspill.errors import Misconfigured
from overspill.kube.credentials import Credential

__all__ = ["expiry", "explain", "load_pair", "tls_context"]

LOOK_TIMEOUT = 3.0
# X509_V_ERR_* of OpenSSL.
NOT_YET_VALID, EXPIRED, OTHER_NAME, OTHER_ADDRESS = 9, 10, 62, 64


def tls_context(ca: bytes, credential: Credential) -> ssl.SSLContext:
    """A context that trusts `ca` (PEM; empty: the system's) and shows the credential's certificate.

    Raises:
        Misconfigured: CA, certificate or key cannot be used.
    """
    try:
        context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        # Python 3.13 refuses the CAs of clusters that were made without a key identifier; Go does not.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if credential.certificate:
            load_pair(context, credential.certificate, credential.key)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"CA, certificate or key cannot be used: {error}") from error
    return context


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Show a certificate (PEM); ssl takes files only, so it and its key lie in memory, never on a disk.

    Raises:
        ssl.SSLError: they are none, or do not fit each other.
    """
    file = os.memfd_create("overspill-certificate")
    try:
        os.write(file, certificate + b"\n" + key)
        # Without a password function OpenSSL would ask for an encrypted key's at the terminal.
        context.load_cert_chain(f"/proc/self/fd/{file}", password=lambda: b"")
    finally:
        os.close(file)


def _validity(certificate: bytes) -> tuple[datetime, datetime]:
    """From when to when a PEM certificate is valid.

    Raises:
        ValueError: it is not a certificate.
    """
    from cryptography import x509  # noqa: PLC0415 - 10 MB that only a failure needs

    parsed = x509.load_pem_x509_certificate(certificate)
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def expiry(certificate: bytes) -> str:
    """When a certificate ended or begins; nothing while it is valid."""
    try:
        begins, ends = _validity(certificate)
    except ValueError:
        return "is not a certificate"
    now = datetime.now(UTC)
    if now > ends:
        return f"expired on {ends:%Y-%m-%d %H:%M} UTC"
    return f"is not valid before {begins:%Y-%m-%d %H:%M} UTC" if now < begins else ""


async def explain(error: ssl.SSLCertVerificationError, *, host: str, address: tuple[str, int]) -> str:
    """Why the certificate shown for `host` at `address` is not accepted, and what to do."""
    code = error.verify_code
    if code in {EXPIRED, NOT_YET_VALID}:
        shown = await asyncio.to_thread(_shown, address)
        when = (expiry(shown) if shown else "") or "or that of its CA is not valid now"
        return f"its certificate {when}: renew it, or set this machine's clock"
    if code in {OTHER_NAME, OTHER_ADDRESS}:
        return f"its certificate is not made out to {host}: use an address it names, or tls-server-name"
    return f"its certificate is not signed by the CA in the configuration ({error.verify_message})"


def _shown(address: tuple[str, int]) -> bytes:
    try:
        return ssl.get_server_certificate(address, timeout=LOOK_TIMEOUT).encode()
    except (OSError, ValueError):
        return b""
