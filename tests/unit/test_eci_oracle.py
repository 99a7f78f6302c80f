"""The official SDK as oracle: the same request gives the same signature and the same parameters."""

import hashlib
from types import SimpleNamespace

import pytest
from alibabacloud_eci20180808 import models
from alibabacloud_tea_openapi.utils import Utils
from hypothesis import given
from hypothesis import strategies as st
from test_eci_translate import FIELDS, WHERE, works

from overspill.backends.eci.sign import ALGORITHM, Key, authorization
from overspill.backends.eci.translate import parameters
from overspill.backends.eci.wire import flatten

EMPTY = hashlib.sha256(b"").hexdigest()
texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
names = st.from_regex(r"[A-Z][A-Za-z0-9]{0,5}", fullmatch=True)


@given(
    query=st.dictionaries(st.from_regex(r"[A-Za-z0-9.]{1,8}", fullmatch=True), texts, max_size=6),
    headers=st.dictionaries(
        st.from_regex(r"x-acs-[a-z0-9-]{1,12}", fullmatch=True), printable, min_size=1, max_size=6
    ),
    secret=printable,
)
def test_same_signature(query, headers, secret):
    request = SimpleNamespace(method="POST", pathname="/", query=query, headers=headers)
    theirs = Utils.get_authorization(request, ALGORITHM, EMPTY, "id", secret)
    assert authorization("POST", headers, digest=EMPTY, key=Key("id", secret), query=query) == theirs


def branches(inner):
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3), st.dictionaries(names, inner, min_size=1, max_size=3)
    )


@given(
    tree=st.dictionaries(
        names, st.recursive(st.one_of(texts, st.integers()), branches, max_leaves=8), max_size=5
    )
)
def test_same_parameters(tree):
    assert flatten(tree) == Utils.query(tree)


# In the live API, but not in this version of the SDK.
NEWER = {"MaxPendingMinute"}


@pytest.mark.parametrize("name", FIELDS)
def test_the_sdk_knows_every_parameter(name):
    same_as_the_sdks(FIELDS[name][0])


@given(works())
def test_the_sdk_would_send_the_same(spec):
    same_as_the_sdks(spec)


def same_as_the_sdks(spec):
    tree = {key: value for key, value in plain(parameters(spec, WHERE)).items() if key not in NEWER}
    theirs = models.CreateContainerGroupRequest().from_map(tree)
    assert {key: value.lower() for key, value in Utils.query(theirs.to_map()).items()} == {
        key: value.lower() for key, value in Utils.query(tree).items()
    }


def plain(value):
    """Without what is not sent, and with lists for tuples, as the SDK's models want it."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
