"""The commands that can be run in a simulated container."""

import pytest

from overspill.backends.simulated.life import PodLife
from overspill.backends.simulated.options import Options
from overspill.backends.simulated.script import Scripts
from overspill.backends.simulated.shell import Box, Command, Result, builtin, commands_of
from overspill.model.work import (
    Container,
    EmptyDir,
    EnvVar,
    File,
    Files,
    Identity,
    Mount,
    SecurityContext,
    WorkSpec,
)


def box(*mounts, security=None, working_dir=""):
    container = Container(
        "web",
        "image",
        env=(EnvVar("A", "1"),),
        mounts=mounts,
        working_dir=working_dir,
        security=security or SecurityContext(),
    )
    work = WorkSpec(
        identity=Identity("c", "n", "ns", "web", "uid"),
        containers=(container,),
        hostname="web-0",
        volumes={"files": Files((File("a.txt", b"A"), File("deep/b.txt", b"B"))), "scratch": EmptyDir()},
    )
    pod = PodLife(work, Scripts(Options()).script(work), seed=0, at=0.0)
    return Box(pod, pod.containers[0])


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("echo a b", [Command(("echo", "a", "b"))]),
        ("true; false", [Command(("true",)), Command(("false",))]),
        ("a && b\nc", [Command(("a",)), Command(("b",), "", True), Command(("c",))]),
        ("echo 'a; b' \"c  d\"", [Command(("echo", "a; b", "c  d"))]),
        ("echo $A${A}$B", [Command(("echo", "11"))]),
        ("echo x > /tmp/x", [Command(("echo", "x"), "/tmp/x")]),
        ("echo x >&2", [Command(("echo", "x"), "2")]),
        ("", []),
        ("a\n\nb;\n", [Command(("a",)), Command(("b",))]),
        ("echo ''", [Command(("echo", ""))]),
    ],
)
def test_scripts_are_taken_apart(script, commands):
    assert commands_of(script, {"A": "1"}) == commands


def test_an_open_quotation_mark_is_an_error():
    with pytest.raises(ValueError, match="quotation"):
        commands_of("echo 'a", {})


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["echo", "a", "b"], Result(0, b"a b\n")),
        (["echo", "-n", "a"], Result(0, b"a")),
        (["/bin/printenv", "A"], Result(0, b"1\n")),
        (["printenv", "B"], Result(1)),
        (["hostname"], Result(0, b"web-0\n")),
        (["exit", "300"], Result(44)),
        (["exit", "x"], Result(2, b"", b"sh: exit: Illegal number: x\n")),
        (["cat", "/f/a.txt", "/f/deep/b.txt"], Result(0, b"AB")),
        (["cat", "/f/c"], Result(1, b"", b"cat: can't open '/f/c': No such file or directory\n")),
        (["ls", "/f"], Result(0, b"a.txt\ndeep\n")),
        (["ls", "/g"], Result(1, b"", b"ls: /g: No such file or directory\n")),
        (["apt-get"], Result(127, b"", b"sh: apt-get: not found\n")),
    ],
)
def test_commands(words, result):
    assert builtin(box(Mount("files", "/f")), words) == result


def test_a_sub_path_is_mounted_as_what_it_is():
    assert box(Mount("files", "/f", sub_path="deep")).read("/f/b.txt") == b"B"
    assert box(Mount("files", "/etc/one", sub_path="a.txt")).read("/etc/one") == b"A"
    assert box(Mount("files", "/f", sub_path="deep")).names("/f") == ["b.txt"]


@pytest.mark.parametrize(
    ("inside", "path", "trouble"),
    [
        (box(Mount("scratch", "/s")), "/s/x", ""),
        (box(Mount("scratch", "/s", sub_path="below")), "/s/x", ""),
        (box(), "/tmp/x", ""),
        (box(working_dir="/srv"), "x", ""),
        (box(Mount("scratch", "/s", read_only=True)), "/s/x", "Read-only file system"),
        (box(Mount("files", "/f")), "/f/x", "Read-only file system"),
        (box(security=SecurityContext(read_only_root_filesystem=True)), "/tmp/x", "Read-only file system"),
    ],
)
def test_writing(inside, path, trouble):
    assert inside.write(path, b"new") == trouble
    assert inside.read(path) == (None if trouble else b"new")
