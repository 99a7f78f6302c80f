"""Names and messages of others cannot forge lines, move a cursor or lead out of a folder."""

import io
import json
import logging
import pathlib

import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from overspill import logs
from overspill.backends.podman.folder import Folder
from overspill.backends.podman.volumes import KEPT, is_kept
from overspill.cli.main import app
from overspill.model.work import FlexVolume, Identity
from overspill.printable import printable

EVIL = "\x1b[2J\x1b]0;title\x07 \r\nERROR forged\x85\u2028\u202e\x00[red]x[/red]"
anything = st.text() | st.text("\x1b\r\n\x07\x00\x85\u2028\u202e[]/.a")


@given(anything)
def test_what_is_printable_stays_and_the_rest_is_on_one_line(text):
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()


@given(anything)
def test_an_event_is_one_line_of_a_log(text):
    for fmt in ("text", "json"):
        lines = logged(fmt, text)
        assert len(lines) == 2, "one of ours, one of a library's"
        assert all(line.isprintable() for line in lines)
    assert {json.loads(line)["event"] for line in lines} == {f"told {text}"}


def logged(fmt, text):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        logs.configure("info", fmt, stream=stream)
        structlog.get_logger("ours").info(f"told {text}", pod=text, fields=[text])
        logging.getLogger("theirs").warning("told %s", text)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    return stream.getvalue().removesuffix("\n").split("\n")


def pod(name):
    annotations = {
        "k8s.aliyun.com/eci-instance-spec": "2.0-4.0Gi",
        "overspill.dev/price-per-second": "0.0001",
        "overspill.dev/currency": name,
    }
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": name,
            "uid": "u",
            "creationTimestamp": "2026-11-01T00:00:00Z",
            "labels": {name: name},
            "annotations": annotations,
        },
        "spec": {"containers": [{"name": name, "image": name}], "hostNetwork": True},
        "status": {"phase": "Running", "startTime": "2026-11-01T00:00:00Z"},
    }


@pytest.mark.parametrize("command", ["check", "cost --by name --file"])
def test_no_name_of_a_file_reaches_the_terminal(command, tmp_path):
    file = tmp_path / "pods.json"
    file.write_text(json.dumps({"items": [pod(EVIL)]}))
    done = CliRunner().invoke(app, [*command.split(), str(file)], env={"COLUMNS": "300"})
    assert "forged" in done.stdout
    for line in (done.stdout + done.stderr).splitlines():
        assert line.isprintable(), line
        assert not line.startswith("ERROR forged")
    assert "[red]x[/red]" in done.stdout


@given(anything.filter(lambda text: text not in {"", ".", ".."} and "/" not in text and "\x00" not in text))
def test_no_name_of_a_volume_that_stays_leads_out_of_its_folder(name):
    volume = FlexVolume(KEPT, options={"name": name})
    folder = Folder(pathlib.Path("/data/cluster/node"), Identity("c", "n", "shop", "web", "uid"))
    if is_kept(volume):
        assert folder.kept(name).parent == pathlib.Path("/data/cluster/_kept/shop")
    for other in ("..", "../x", "a/b", "", ".", f"{name}/.."):
        assert not is_kept(structs.replace(volume, options={"name": other}))


def test_yaml_of_a_stranger_makes_no_objects():
    done = CliRunner().invoke(app, ["check", "-"], input=yaml.dump(pathlib.PurePosixPath("/x")))
    assert (done.exit_code, done.stdout) == (2, "")
