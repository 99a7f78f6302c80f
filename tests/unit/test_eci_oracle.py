"""The official SDK as oracle: the same request gives the same signature and the same parameters."""

import hashlib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.backends.eci.sign import ALGORITHM, Key, authorization
from overspill.backends.eci.wire import flatten

utils = pytest.importorskip(
    "alibabacloud_tea_openapi.utils", reason="the official SDK is not installed"
).Utils

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
    theirs = utils.get_authorization(request, ALGORITHM, EMPTY, "id", secret)
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
    assert flatten(tree) == utils.query(tree)
