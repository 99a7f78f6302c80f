"""What is signed and how parameters are written; test_eci_oracle.py compares both with the official SDK."""

import hashlib
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.backends.eci.sign import Key, signed_headers
from overspill.backends.eci.wire import decode, flatten, fold, form


def test_secret_is_in_no_representation():
    key = Key("id", "very-secret", "very-token")
    assert "very" not in repr(key)
    assert "very" not in f"{key}"


def test_all_headers_that_carry_meaning_are_signed():
    headers = signed_headers(
        "ListUsage",
        host="127.0.0.1:1",
        body=b"A=1",
        key=Key("id", "secret", "token"),
        date="2026-11-23T09:16:48Z",
        nonce="n",
    )
    sent = {name for name in headers if name != "Authorization"}
    assert f"SignedHeaders={';'.join(sorted(sent))}," in headers["Authorization"]
    assert {"x-acs-security-token", "x-acs-accesskey-id"} <= sent
    assert headers["x-acs-content-sha256"] == hashlib.sha256(b"A=1").hexdigest()


FLAT = {
    "nothing": ({"A": None}, {}),
    "empty text stays": ({"A": ""}, {"A": ""}),
    "booleans as JSON writes them": ({"A": True, "B": False}, {"A": "true", "B": "false"}),
    "whole numbers without a point": ({"A": 2.0, "B": 0.25}, {"A": "2", "B": "0.25"}),
    "lists count from one": ({"A": [{"B": "x"}, {"B": "y"}]}, {"A.1.B": "x", "A.2.B": "y"}),
}


@pytest.mark.parametrize(("tree", "flat"), FLAT.values(), ids=FLAT)
def test_flatten(tree, flat):
    assert flatten(tree) == flat


def test_form_escapes():
    assert form({"A": "x y&z=é", "B": ["*"]}) == b"A=x+y%26z%3D%C3%A9&B.1=%2A"


def test_fold_lowers_keys_and_drops_nulls():
    assert fold({"A": [{"StartedAtstartedAt": "x", "Y": None}], "uuid": "U"}) == {
        "a": [{"startedatstartedat": "x"}],
        "uuid": "U",
    }


def test_decode_takes_numbers_as_text():
    assert decode(b'{"Limit":"3","On":"true"}', dict[str, int | bool]) == {"limit": 3, "on": True}


def test_decode_replaces_what_is_no_text():
    assert decode(b'{"Content":"a\xffb"}', dict[str, str]) == {"content": "a\ufffdb"}


@given(st.dictionaries(st.text("ABC.", min_size=1), st.text(st.characters(blacklist_categories=("Cs",)))))
def test_form_is_what_every_server_reads(pairs):
    assert dict(parse_qsl(form(pairs).decode(), keep_blank_values=True)) == pairs
