"""Bytes of a watch, however they are split, give the same changes; none is lost or doubled."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from overspill.errors import Expired, Retry
from overspill.kube.frames import Frames
from overspill.model.pods import Pod


def line(kind, name, version, **status):
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return (
        json.dumps({"type": kind, "object": {"kind": "Pod", "metadata": meta, "status": status}}) + "\n"
    ).encode()


def mark(version, *, whole=False):
    meta = {"resourceVersion": str(version)}
    if whole:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return (json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}) + "\n").encode()


def ended(code, reason="Expired"):
    return (json.dumps({"type": "ERROR", "object": {"code": code, "reason": reason}}) + "\n").encode()


def frames(version=""):
    made = Frames(Pod, keep=Pod.kept, what="watch pods")
    made.version = version
    return made


def changes(batches):
    return [
        (change.type, change.object.metadata.name, change.object.metadata.resource_version)
        for batch in batches
        for change in batch.changes
    ]


STREAM = (
    line("ADDED", "a", 1)
    + line("ADDED", "b", 2)
    + mark(2, whole=True)
    + line("MODIFIED", "a", 3)
    + mark(9)
    + line("DELETED", "b", 12)
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_the_pieces_end_does_not_matter(cuts):
    bounds = [0, *sorted(cuts), len(STREAM)]
    read = frames()
    batches = [batch for start, end in itertools.pairwise(bounds) for batch in read.feed(STREAM[start:end])]
    assert changes(batches) == [
        ("ADDED", "a", "1"),
        ("ADDED", "b", "2"),
        ("MODIFIED", "a", "3"),
        ("DELETED", "b", "12"),
    ]
    assert [batch.replace for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert len(batches[0].changes) == 2
    assert read.version == "12"


def test_an_unfinished_list_is_no_state():
    read = frames()
    assert list(read.feed(line("ADDED", "a", 1))) == []
    assert read.version == ""
    read.restart()
    [whole] = read.feed(line("ADDED", "b", 5) + mark(5, whole=True))
    assert changes([whole]) == [("ADDED", "b", "5")]


def test_an_empty_list_is_a_state():
    [whole] = frames().feed(mark(7, whole=True))
    assert whole.replace
    assert whole.changes == []


def test_what_came_before_an_error_is_given_out_first():
    read, seen = frames("1"), []
    with pytest.raises(Expired):
        seen.extend(read.feed(line("ADDED", "a", 2) + ended(410) + line("ADDED", "lost", 3)))
    # `extend` keeps what it got before the error.
    assert changes(seen) == [("ADDED", "a", "2")]
    assert read.version == "2"


def test_other_errors_in_the_stream_are_tried_again_from_there():
    with pytest.raises(Retry):
        list(frames("1").feed(ended(500, "InternalError")))


def test_a_list_that_changes_while_it_streams():
    stream = (
        line("ADDED", "a", 1) + line("ADDED", "b", 2) + line("DELETED", "a", 3) + line("MODIFIED", "b", 4)
    )
    [whole] = frames().feed(stream + mark(4, whole=True))
    assert changes([whole]) == [("ADDED", "b", "4")]


def test_an_unreadable_event_is_told_by_its_key_and_passed():
    broken = json.loads(line("MODIFIED", "bad", 5))
    broken["object"]["metadata"]["finalizers"] = "not-a-list"
    read = frames("1")
    with capture_logs() as logs:
        batches = list(read.feed(json.dumps(broken).encode() + b"\n" + b"{{{\n" + line("ADDED", "good", 4)))
    assert changes(batches) == [("ADDED", "good", "4")]
    assert [entry.get("object") for entry in logs] == ["ns/bad", None]
    assert logs[0]["uid"] == "uid-bad"


def test_an_unreadable_event_at_the_end_still_moves_the_version():
    read = frames("1")
    with capture_logs():
        assert list(read.feed(b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"8"}}}\n')) == []
    assert read.version == "8"


def test_a_kept_object_does_not_hold_its_line():
    spec = {"nodeName": "n", "containers": [{"name": "c" * 5000}]}
    event = json.dumps(
        {"type": "ADDED", "object": {"metadata": {"name": "a"}, "spec": spec, "other": "x" * 50000}}
    )
    [batch] = frames("1").feed(event.encode() + b"\n")
    kept = batch.changes[0].object.spec
    assert json.loads(bytes(kept)) == spec
    assert memoryview(kept).obj is kept or len(memoryview(kept).obj) < 10000
