"""The scan of all tests' logs for secrets finds one that was planted."""

import base64
import pathlib

import pytest

from secret_scan import Secrets, readable_files, words_of

TESTS = pathlib.Path(__file__).parents[1]
PLANTED = "planted-4f2a-b7+/=-value"
# Put together here, so that this file could be logged itself.
TOKEN = ".".join(["eyJ" + "hbGciOiJSUzI1NiJ9", "eyJ" + "zdWIiOiJzeXN0ZW0ifQ", "c2lnbmF0dXJl" * 3])


@pytest.fixture
def known():
    known = Secrets()
    known.add(PLANTED)
    return known


@pytest.mark.parametrize(
    "line",
    [
        f"key={PLANTED} told",
        f'{{"event": "{PLANTED}"}}',
        "?secret=planted-4f2a-b7%2B%2F%3D-value&x=1",
        base64.b64encode(PLANTED.encode()).decode(),
        f"authorization: Bearer {TOKEN}",
        "-----BEGIN EC PRIVATE KEY-----",
    ],
)
def test_a_secret_is_found_in_any_form_and_not_shown(known, line):
    (found,) = known.leaks(f"before\n{line}\nafter")
    assert "<secret>" in found
    assert PLANTED not in found
    assert TOKEN not in found


def test_other_lines_are_left_alone(known):
    known.add("short")
    assert known.leaks("a planted tree, 4f2a, short, -----BEGIN CERTIFICATE-----, eyJhbGciOiJ") == []


def test_the_environments_key_comes_by_itself():
    known = Secrets()
    known.add_environment({"ALIBABA_CLOUD_ACCESS_KEY_SECRET": PLANTED, "HOME": "/home/somebody"})
    assert known.leaks(PLANTED)
    assert not known.leaks("/home/somebody")


def test_files_are_named_and_private_ones_may_hold_secrets(tmp_path, known):
    tmp_path.chmod(0o755)
    (tmp_path / "private").write_text(PLANTED)
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "inside").write_text(PLANTED)
    (tmp_path / "logs").mkdir(mode=0o755)
    (tmp_path / "logs" / "agent.log").write_text(f"fine\n{PLANTED}\n")
    (found,) = known.leaks_in(readable_files(tmp_path))
    assert found == f"{tmp_path}/logs/agent.log: <secret>"


def test_every_line_of_a_content_is_a_secret():
    assert words_of("one line\ntwo lines\n") == {"one line\ntwo lines", "one line", "two lines"}


def test_a_test_that_logs_a_secret_fails(pytester):
    """In a run of its own, under these tests' own conftest."""
    for name in ("conftest", "secret_scan"):
        pytester.makepyfile(**{name: (TESTS / f"{name}.py").read_text()})
    pytester.makepyfile(
        test_planted=f"""
        import logging

        def test_it_prints(monkeypatch):
            monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", {PLANTED!r})
            print({PLANTED!r})

        def test_it_logs():
            logging.getLogger("agent").warning("key %s", {PLANTED!r})

        def test_it_is_silent():
            print("nothing")
        """
    )
    options = ("-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["a secret was logged:", "<secret>", "a secret was logged:", "*key <secret>"])
