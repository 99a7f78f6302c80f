"""AdmissionReview v1, as far as a webhook needs it that only adds to objects.

In: the body of a request. Out: the object in question; the body of the answer. Pure. Invariant: the answer allows
every request: who may create what is not decided here.
Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import msgspec
from msgspec import Raw, Struct

from overspill.errors import Rejected
from overspill.placement.patch import Operation

__all__ = ["Review", "answer", "read_review"]

API_VERSION = "admission.k8s.io/v1"


class Review(Struct, frozen=True):
    """One request for admission.

    Attributes:
        uid: what the answer must name.
        namespace: of the object, which itself may not say it.
        object: as it would be stored, in JSON.
    """

    uid: str
    object: Raw
    namespace: str = ""


class _AdmissionReview(Struct, frozen=True, rename="camel"):
    api_version: str
    request: Review


decoder = msgspec.json.Decoder(_AdmissionReview)
encoder = msgspec.json.Encoder()


def read_review(body: bytes) -> Review:
    """The request for admission.

    Raises:
        Rejected: it is none.
    """
    try:
        found = decoder.decode(body)
    except msgspec.DecodeError as error:
        raise Rejected(f"no AdmissionReview: {error}") from error
    if found.api_version != API_VERSION:
        raise Rejected(f"AdmissionReview {found.api_version} is not understood, only {API_VERSION}")
    return found.request


def answer(uid: str, patch: list[Operation]) -> bytes:
    """The answer that allows a request, with what is to be added."""
    response: dict[str, object] = {"uid": uid, "allowed": True}
    if patch:
        # bytes, which are base64 in JSON
        response |= {"patchType": "JSONPatch", "patch": encoder.encode(patch)}
    return encoder.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
