"""What a refusal means for the caller."""

import json

import pytest

from overspill.errors import Conflict, Expired, Misconfigured, NotFound, Rejected, Retry, Throttled
from overspill.kube.replies import error_of

RBAC = (
    'pods "a" is forbidden: User "system:serviceaccount:kube-system:agent" cannot patch resource'
    ' "pods/status" in API group "" in the namespace "work"'
)


def error(code, message="", reason="", retry_after="", **details):
    body = {"kind": "Status", "code": code, "message": message, "reason": reason, "details": details}
    return error_of(
        code, json.dumps(body).encode(), method="PATCH", path="/api/v1/x", retry_after=retry_after
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, Rejected),
        (401, Misconfigured),
        (404, NotFound),
        (405, Rejected),
        (408, Retry),
        (409, Conflict),
        (410, Expired),
        (413, Rejected),
        (415, Rejected),
        (422, Rejected),
        (429, Throttled),
        (500, Retry),
        (502, Retry),
        (503, Retry),
        (504, Retry),
        (307, Rejected),
    ],
)
def test_code_decides(code, kind):
    found = error(code, "the reason why")
    assert type(found) is kind
    assert str(found) == "patch /api/v1/x: the reason why" or code == 401


@pytest.mark.parametrize(
    ("code", "retry_after", "details", "after"),
    [
        (429, "7", {}, 7),
        (429, "", {"retryAfterSeconds": 3}, 3),
        (429, "", {}, 0),
        (503, "2", {}, 2),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", {"retryAfterSeconds": 3}, 3),
    ],
)
def test_how_long_to_wait(code, retry_after, details, after):
    found = error(code, retry_after=retry_after, **details)
    assert isinstance(found, Throttled)
    assert found.retry_after == after


def test_a_timeout_with_a_wait_may_have_had_its_effect():
    assert type(error(504, retry_after="1")) is Retry


def test_an_apiserver_whose_admission_is_not_ready_yet_is_asked_again():
    assert type(error(403, 'pods "a" is forbidden: not yet ready to handle request')) is Retry


@pytest.mark.parametrize(
    "unread",
    [
        'RBAC: clusterrole.rbac.authorization.k8s.io "virtual-node-eci" not found',
        'RBAC: [clusterrole.rbac.authorization.k8s.io "a" not found, role.rbac.authorization.k8s.io "b" not found]',
    ],
)
def test_an_apiserver_that_has_not_read_its_roles_is_asked_again(unread):
    """An agent that started at that moment ended, and its kubelet waited ever longer with the next one (chaos, seed 1)."""
    found = error(403, f"{RBAC}: {unread}")
    assert type(found) is Retry
    assert 'grant verb "patch"' in str(found)


def test_a_missing_right_is_named():
    found = error(403, RBAC)
    assert isinstance(found, Misconfigured)
    assert 'grant verb "patch" on "pods/status" in namespace "work" by RBAC' in str(found)
    assert "serviceaccount:kube-system:agent" in str(found)


@pytest.mark.parametrize(
    "message",
    [
        'pods "a" is forbidden: exceeded quota: compute',
        'events "a" is forbidden: unable to create new content in namespace work because it is being terminated',
        'nodes "a" is forbidden: node "b" is not allowed to modify node "a"',
    ],
)
def test_what_admission_forbids_is_not_a_matter_of_rights(message):
    assert type(error(403, message)) is Rejected


def test_the_uid_of_another_object_is_a_conflict():
    cause = {"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}
    assert isinstance(error(422, causes=[cause]), Conflict)


def test_a_version_from_the_future_asks_for_a_list():
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    assert isinstance(error(504, causes=[cause]), Expired)


def test_an_answer_that_is_no_status_is_told_in_part():
    found = error_of(502, b"<html>bad gateway</html>" * 100, method="GET", path="/p")
    assert isinstance(found, Retry)
    assert str(found).startswith("get /p: <html>bad gateway")
    assert len(str(found)) < 400
