"""Daemons: started once, known by pid and start time, ended with all they started."""

import os
import time

import msgspec
import pytest

from overspill.errors import Misconfigured, Retry
from overspill.local import processes as module
from overspill.local.paths import Paths
from overspill.local.processes import Processes, Program, end, marked, started_at, with_descendants

SLEEP = Program(name="sleeper", argv=("sleep", "1000"))


@pytest.fixture
def processes(tmp_path):
    made = Processes(Paths(tmp_path))
    yield made
    end(with_descendants(marked(tmp_path)))


def until(check):
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_program_is_started_once(processes):
    assert processes.ensure(SLEEP)
    first = processes.find("sleeper")
    assert first.alive
    assert not processes.ensure(SLEEP)
    assert processes.find("sleeper") == first


def test_one_that_died_is_started_again(processes):
    processes.ensure(SLEEP)
    first = processes.find("sleeper")
    end([first.pid])
    assert not first.alive
    assert processes.ensure(SLEEP)
    assert processes.find("sleeper").pid != first.pid


def test_one_with_other_flags_is_replaced(processes):
    processes.ensure(SLEEP)
    first = processes.find("sleeper")
    assert processes.ensure(Program(name="sleeper", argv=("sleep", "2000")))
    assert not first.alive
    assert processes.find("sleeper").argv == ("sleep", "2000")


def test_a_recycled_pid_is_not_ours(processes):
    processes.ensure(SLEEP)
    mine = processes.find("sleeper")
    other = msgspec.structs.replace(mine, started=mine.started - 1)
    assert not other.alive
    assert not msgspec.structs.replace(mine, boot="another boot").alive


def test_it_is_detached_and_says_its_words_in_a_log(processes):
    processes.ensure(Program(name="talker", argv=("sh", "-c", "pwd; echo oops >&2; exec sleep 1000")))
    pid = processes.find("talker").pid
    until(lambda: processes.log_tail("talker") == "/\noops")
    assert os.getsid(pid) == pid


def test_one_that_ends_at_once_is_told_with_its_last_words(processes):
    processes.ensure(Program(name="talker", argv=("sh", "-c", "echo no such flag; exit 1")))
    until(lambda: not processes.find("talker").alive)
    with pytest.raises(Retry, match=r"(?s)talker ended.*no such flag"):
        processes.require("talker")


def test_stop_ends_and_forgets(processes):
    processes.ensure(SLEEP)
    pid = processes.find("sleeper").pid
    processes.stop("sleeper")
    assert started_at(pid) is None
    assert processes.all() == []
    processes.stop("sleeper")


def test_grace_lets_a_program_end_by_itself(processes):
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    processes.ensure(Program(name="polite", argv=("sh", "-c", script)))
    until(lambda: processes.log_tail("polite") == "ready")
    processes.stop("polite", grace=10)
    assert processes.log_tail("polite") == "ready\nbye"


def test_one_that_was_never_recorded_is_found_by_its_environment(processes, tmp_path):
    processes.ensure(SLEEP)
    pid = processes.find("sleeper").pid
    (tmp_path / "processes" / "sleeper.json").unlink()
    until(lambda: pid in marked(tmp_path))  # a process that has just begun has no environment yet
    assert pid not in marked(tmp_path.parent)


def test_descendants_are_found_without_their_environment(processes):
    script = "env -i sleep 1000 & echo $!; wait"
    processes.ensure(Program(name="parent", argv=("sh", "-c", script)))
    until(lambda: processes.log_tail("parent"))
    child = int(processes.log_tail("parent"))
    parent = processes.find("parent").pid
    until(lambda: with_descendants([parent]) == {parent, child})
    end(with_descendants([parent]))
    assert started_at(child) is None


def test_a_zombie_is_no_living_process():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    until(lambda: module._stat(pid)[0] == "Z")
    assert started_at(pid) is None
    os.waitpid(pid, 0)
    assert started_at(pid) is None


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "logs" / "sleeper.log").mkdir(parents=True)
    with pytest.raises(Misconfigured, match="sleeper cannot be started"):
        Processes(Paths(tmp_path)).ensure(SLEEP)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b'{"name": "sleeper"}', b'{"name": "\xff"}'])
def test_a_record_that_a_power_cut_spoiled_is_none(processes, content):
    processes.ensure(SLEEP)
    pid = processes.find("sleeper").pid
    (processes._paths.processes / "sleeper.json").write_bytes(content)
    assert processes.all() == []
    assert processes.find("sleeper") is None
    until(lambda: pid in marked(processes._paths.root))
