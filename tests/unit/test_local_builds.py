"""Builds are named by everything that their content depends on."""

import pytest

from overspill.local.builds import COMMON, TARGETS, Target, content_key, required_version

TARGET = Target(name="t", sources=("go.mod", "*.go"), arguments=("-o", "x"), expected="1 s")


@pytest.fixture
def source(tmp_path):
    for name, text in {"go.mod": "go 1.26\n", "main.go": "package main\n", "README": "hello\n"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_key_stays_when_nothing_of_the_build_changes(source):
    before = content_key(TARGET, source, "go1.26.8")
    (source / "README").write_text("bye\n")
    (source / "main.go").touch()
    assert content_key(TARGET, source, "go1.26.8") == before


def test_the_key_changes_with_source_flags_and_compiler(source):
    keys = {content_key(TARGET, source, "go1.26.8"), content_key(TARGET, source, "go1.26.9")}
    keys.add(
        content_key(
            Target(name="t", sources=TARGET.sources, arguments=("-o", "y"), expected=""), source, "go1.26.8"
        )
    )
    (source / "main.go").write_text("package main // changed\n")
    keys.add(content_key(TARGET, source, "go1.26.8"))
    (source / "main.go").rename(source / "other.go")
    keys.add(content_key(TARGET, source, "go1.26.8"))
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("module x\n\ngo 1.26.4\n\nrequire y v1.0.0\n", (1, 26, 4)),
        ("go1.26.8\n", (1, 26, 8)),
        ("go1.27rc1\n", (1, 27)),
        ("devel go1.28-abc\n", ()),
        ("", ()),
    ],
)
def test_a_version_of_go_is_read(text, version):
    assert required_version(text) == version


def test_every_target_builds_the_same_bytes_wherever_it_is_checked_out():
    assert {"-trimpath", "-buildvcs=false"} <= set(COMMON)
    assert len({target.name for target in TARGETS}) == len(TARGETS)
