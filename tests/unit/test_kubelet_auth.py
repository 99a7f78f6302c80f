"""Who may do what at the kubelet API, without a server."""

import pytest

from overspill.serve.kubelet.auth import (
    Access,
    User,
    access,
    bearer_token,
    forbidden,
    user_of_certificate,
)
from overspill.serve.kubelet.review import Remembered

EXEC = "/exec/default/web/c"


@pytest.mark.parametrize(
    ("method", "path", "verb", "subresources"),
    [
        ("GET", "/stats", "get", ("stats",)),
        ("GET", "/stats/summary", "get", ("stats",)),
        ("GET", "/metrics", "get", ("metrics",)),
        ("GET", "/metrics/resource", "get", ("metrics",)),
        ("GET", "/metrics/cadvisor", "get", ("metrics",)),
        ("GET", "/logs/", "get", ("log",)),
        ("POST", "/checkpoint/n/p/c", "create", ("checkpoint",)),
        ("GET", "/pods", "get", ("pods", "proxy")),
        ("GET", "/runningpods/", "get", ("pods", "proxy")),
        ("GET", "/healthz", "get", ("healthz", "proxy")),
        ("GET", "/healthz/syncloop", "get", ("healthz", "proxy")),
        ("GET", "/configz", "get", ("configz", "proxy")),
        ("GET", "/statusz", "get", ("statusz", "proxy")),
        ("GET", EXEC, "get", ("proxy",)),
        ("POST", EXEC, "create", ("proxy",)),
        ("POST", "/attach/n/p/c", "create", ("proxy",)),
        ("POST", "/portForward/n/p", "create", ("proxy",)),
        ("POST", "/run/n/p/c", "create", ("proxy",)),
        ("GET", "/containerLogs/n/p/c", "get", ("proxy",)),
        ("HEAD", EXEC, "get", ("proxy",)),
        ("PUT", EXEC, "update", ("proxy",)),
        ("PATCH", EXEC, "patch", ("proxy",)),
        ("DELETE", EXEC, "delete", ("proxy",)),
        ("BREW", EXEC, "brew", ("proxy",)),
        # Nothing that merely looks like a lesser path is one.
        ("GET", "/", "get", ("proxy",)),
        ("GET", "/metricsx", "get", ("proxy",)),
        ("GET", "//metrics", "get", ("proxy",)),
        ("GET", "/Metrics", "get", ("proxy",)),
    ],
)
def test_what_a_request_needs(method, path, verb, subresources):
    assert access(method, path) == Access(verb, subresources)


def test_the_refusal_is_the_kubelets():
    text = forbidden(User("jane"), access("GET", "/pods"))
    assert text == "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"


def certificate(*subject, ends="Nov 23 00:00:00 2030 GMT"):
    return {"subject": tuple((pair,) for pair in subject), "notAfter": ends}


NAME = ("commonName", "kube-apiserver-kubelet-client")


def test_a_certificate_names_a_user_and_groups():
    shown = certificate(("organizationName", "a"), ("organizationName", "b"), NAME)
    assert user_of_certificate(shown, now=0) == User("kube-apiserver-kubelet-client", ("a", "b"))


@pytest.mark.parametrize(
    "shown",
    [
        None,
        {},
        certificate(("organizationName", "system:masters")),
        certificate(("commonName", "")),
        certificate(NAME, ends="Jan  1 00:00:01 1970 GMT"),
    ],
)
def test_who_is_nobody(shown):
    assert user_of_certificate(shown, now=1) is None


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("Bearer a b", ""),
        ("", ""),
        ("Bearer a, Bearer b", ""),  # two headers
    ],
)
def test_a_bearer_token(header, token):
    assert bearer_token(header) == token


def test_answers_are_remembered_for_their_time_and_no_more_than_so_many():
    now = 0.0
    answers = Remembered(limit=2, clock=lambda: now)
    answers.put("a", True, seconds=10)
    answers.put("b", None, seconds=30)
    assert (answers.get("a"), answers.get("b"), answers.get("c")) == ((True,), (None,), None)
    now = 10.0
    assert (answers.get("a"), answers.get("b")) == (None, (None,))
    answers.put("c", 1, seconds=30)
    answers.get("b")
    answers.put("d", 2, seconds=30)  # "c" was asked for longest ago
    assert (answers.get("b"), answers.get("c"), answers.get("d")) == ((None,), None, (2,))
