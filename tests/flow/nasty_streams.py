"""Watch streams as apiservers have been seen to send them, one recording per trouble.

A recording is a list of replies, played in order to the requests that come. A reply is `Listed`
(a JSON list), `Refused` (an HTTP status) or `Stream` (pieces of a watch, then its end).
"""

import json
from dataclasses import dataclass, field


def pod(name, version, uid=""):
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
        }
    }


def event(kind, item):
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def bookmark(version, *, initial_end=False):
    # A bookmark has neither name nor namespace.
    annotations = {"k8s.io/initial-events-end": "true"} if initial_end else {}
    meta = {"resourceVersion": str(version), "creationTimestamp": None, "annotations": annotations}
    return event(
        "BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"containers": None}}
    )


def status(code, reason, message=""):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": message,
    }


@dataclass
class Stream:
    """Pieces as they arrive; `end` is how the stream ends: in order, cut off, or never (half open)."""

    pieces: list = field(default_factory=list)
    end: str = "close"


@dataclass
class Refused:
    code: int
    body: dict
    headers: dict = field(default_factory=dict)


@dataclass
class Listed:
    items: list
    version: int
    next: str = ""


def initial(*items, version):
    return b"".join(event("ADDED", item) for item in items) + bookmark(version, initial_end=True)


A1, A2, B3 = pod("a", 1), pod("a", 2), pod("b", 3)

RECORDINGS = {
    # name: (replies, what the cache must hold in the end, resourceVersions asked for, relists)
    "in order": ([Stream([initial(A1, version=1), event("MODIFIED", A2)])], {"a": "2"}, ["", "2"], 0),
    "lines split anywhere": (
        [Stream([bytes([byte]) for byte in initial(A1, version=1) + event("ADDED", B3)])],
        {"a": "1", "b": "3"},
        ["", "3"],
        0,
    ),
    "cut in mid-line, then resumed": (
        [
            Stream([initial(A1, version=1), event("MODIFIED", A2)[:40]], end="cut"),
            Stream([event("MODIFIED", A2)]),
        ],
        {"a": "2"},
        ["", "1", "2"],
        0,
    ),
    "ends under load, goes on from the last version": (
        [Stream([initial(A1, version=1), event("MODIFIED", A2)]), Stream([event("ADDED", B3)])],
        {"a": "2", "b": "3"},
        ["", "2", "3"],
        0,
    ),
    "bookmark moves the version": (
        [Stream([initial(A1, version=1), bookmark(50)]), Stream([event("DELETED", pod("a", 51))])],
        {},
        ["", "50", "51"],
        0,
    ),
    "410 inside the stream": (
        [
            Stream(
                [initial(A1, version=1), event("ERROR", status(410, "Expired", "too old resource version"))]
            ),
            Stream([initial(B3, version=9)]),
        ],
        {"b": "3"},
        ["", "", "9"],
        1,
    ),
    "changes right before an error are not lost": (
        [
            Stream(
                [initial(A1, version=1), event("MODIFIED", A2) + event("ERROR", status(500, "InternalError"))]
            ),
            Stream([event("ADDED", B3)]),
        ],
        {"a": "2", "b": "3"},
        ["", "2", "3"],
        0,
    ),
    "deletion lost while away": (
        [
            Stream([initial(A1, B3, version=3)]),
            Refused(410, status(410, "Expired", "too old resource version")),
            Stream([initial(A1, version=9)]),
        ],
        {"a": "1"},
        ["", "3", "", "9"],
        1,
    ),
    "silent from its first byte: the version may be of the future": (
        [
            Stream([initial(A1, version=1)]),
            Stream([], end="hang"),
            Stream([initial(B3, version=9)]),
        ],
        {"b": "3"},
        ["", "1", "", "9"],
        1,
    ),
    "list restored from a backup": (
        [
            Stream([initial(A1, version=1)]),
            Refused(
                504,
                status(504, "Timeout", "Too large resource version")
                | {"details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}},
            ),
            Stream([initial(B3, version=9)]),
        ],
        {"b": "3"},
        ["", "1", "", "9"],
        1,
    ),
    "cut at once, again and again": (
        [
            Stream([initial(A1, version=1)]),
            *(Stream([], end="cut") for _ in range(3)),
            Stream([event("ADDED", B3)]),
        ],
        {"a": "1", "b": "3"},
        ["", "1", "1", "1", "1", "3"],
        0,
    ),
    "410 as the reply": (
        [
            Stream([initial(A1, version=1)]),
            Refused(410, status(410, "Expired", "too old resource version")),
            Stream([initial(A2, B3, version=9)]),
        ],
        {"a": "2", "b": "3"},
        ["", "1", "", "9"],
        1,
    ),
    "duplicate ADDED after a relist": (
        [
            Stream([initial(A1, version=1), event("ERROR", status(410, "Gone"))]),
            Stream([initial(A1, version=1), event("ADDED", A1)]),
        ],
        {"a": "1"},
        ["", "", "1"],
        1,
    ),
    "made again under its name while away": (
        [
            Stream([initial(A1, version=1), event("ERROR", status(410, "Gone"))]),
            Stream([initial(pod("a", 8, uid="other"), version=9)]),
        ],
        {"a": "8"},
        ["", "", "9"],
        1,
    ),
    "garbage is skipped, what follows is not": (
        [
            Stream(
                [
                    initial(A1, version=1),
                    b'{"type":"MODIFIED","object":{"metadata":[]}}\n',
                    b"\n",
                    event("ADDED", B3),
                ]
            )
        ],
        {"a": "1", "b": "3"},
        ["", "3"],
        0,
    ),
    "initial list breaks off and is not taken for whole": (
        [Stream([event("ADDED", A1)], end="cut"), Stream([initial(A2, B3, version=9)])],
        {"a": "2", "b": "3"},
        ["", "", "9"],
        0,
    ),
    "server without WatchList": (
        [
            Refused(422, status(422, "Invalid", "sendInitialEvents is forbidden for watch unless …")),
            Listed([A1], 1, next="page2"),
            Listed([B3], 3),
            Stream([event("MODIFIED", A2)]),
        ],
        {"a": "2", "b": "3"},
        ["", "3", "2"],
        0,
    ),
    "throttled and broken servers are waited out": (
        [
            Refused(429, status(429, "TooManyRequests")),
            Refused(500, status(500, "InternalError")),
            Stream([initial(A1, version=1)]),
        ],
        {"a": "1"},
        ["", "", "", "1"],
        0,
    ),
    "half-open connection": (
        [Stream([initial(A1, version=1)], end="hang"), Stream([event("ADDED", B3)])],
        {"a": "1", "b": "3"},
        ["", "1", "3"],
        0,
    ),
}
