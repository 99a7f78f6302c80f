"""The authorities that sign serving certificates, as all replicas know them from one Secret.

In: the Secret's content, the time. Out: the authorities to keep, the one that signs, what is to be trusted. Pure but
for new keys. Invariant: an authority signs only after a fifth of its life, in which everybody has come to trust it;
until then the one before it does, which lives longer than that. So no replica need know how far another is.
"""

import datetime as dt
import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from overspill import pki
from overspill.pki import KeyPair

__all__ = ["Content", "bundle", "content_of", "read", "renewed", "signer"]

NAME = "overspill-webhook"
# Of its life: an authority gets a successor when this much is left, which signs from when this much is left of its own.
SUCCEEDED, TRUSTED = 0.4, 0.8
PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n?", re.DOTALL)

Authorities = tuple[KeyPair, ...]


class Content(Struct, frozen=True):
    """The Secret's data: certificates and keys, PEM, both from the oldest authority."""

    certificates: bytes = msgspec.field(name="ca.crt", default=b"")
    keys: bytes = msgspec.field(name="ca.key", default=b"")

    def __repr__(self) -> str:
        return "Content(…)"


def read(content: Content) -> Authorities:
    """The authorities of a Secret; none of one that somebody has spoilt."""
    certificates, keys = PEM.findall(content.certificates), PEM.findall(content.keys)
    found = tuple(map(KeyPair, certificates, keys))
    return found if len(certificates) == len(keys) and all(map(pki.is_pair, found)) else ()


def content_of(authorities: Authorities) -> Content:
    """What the Secret is to hold."""
    return Content(bundle(authorities), b"".join(each.key for each in authorities))


def bundle(authorities: Authorities) -> bytes:
    """What clients are to trust, as PEM."""
    return b"".join(each.certificate for each in authorities)


def renewed(authorities: Authorities, *, now: float, life: dt.timedelta) -> Authorities:
    """The authorities to keep: those that are valid, and a new one in time."""
    valid = tuple(each for each in authorities if _left(each, now) > 0)
    if valid and _left(valid[-1], now) > SUCCEEDED * life.total_seconds():
        return valid
    return (*valid, pki.new_authority(NAME, life=life))


def signer(authorities: Sequence[KeyPair], *, now: float, life: dt.timedelta) -> KeyPair:
    """The newest authority that everybody trusts by now, or the only one."""
    trusted = [each for each in authorities if _left(each, now) <= TRUSTED * life.total_seconds()]
    return trusted[-1] if trusted else authorities[0]


def _left(pair: KeyPair, now: float) -> float:
    return pki.expires_at(pair.certificate) - now
