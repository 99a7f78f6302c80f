"""The command line as a user meets it: exit codes, where words go, what is imported."""

import os
import pathlib
import subprocess
import sys

import pytest

from overspill.local.paths import Paths
from overspill.local.processes import Processes, Program

OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")


def overspill(*args, **environment):
    return subprocess.run(
        [OVERSPILL, *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


def test_version_goes_to_stdout():
    done = overspill("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("overspill 0.")


def test_help_lists_the_commands_without_loading_them():
    code = (
        "import sys; from overspill.cli import main\n"
        "sys.argv = ['overspill', '--help']\n"
        "try: main.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'kubeconfig' in main.COMMANDS\n"
        "print([name for name in sys.modules if name.startswith('overspill.local') or name == 'aiohttp'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    for command in ("up", "down", "status", "kubeconfig", "kubectl", "load-image", "agent"):
        assert f" {command} " in done.stdout
    assert done.stdout.endswith("[]\n")


def test_an_unknown_cluster_is_exit_code_3_and_ends_with_the_next_step(tmp_path):
    done = overspill("status", "--name", "nobody", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: there is no cluster 'nobody'; start it with `overspill up --name nobody`\n"
    )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("kubectl", "--name", "nobody", "--", "get", "pods"), 3, "there is no cluster 'nobody'"),
        (("kubeconfig", "--name", "nobody"), 3, "there is no cluster 'nobody'"),
        (("up", "--name", "UPPER"), 1, "cannot name a cluster"),
        (("up", "--backend", "fargate"), 1, "unknown backend 'fargate'"),
        (("up", "--workers", "5"), 2, "--workers"),
        (("no-such-command",), 2, "no-such-command"),
        (("down", "--name", "nobody"), 0, "there is no cluster nobody"),
    ],
)
def test_exit_codes(tmp_path, args, code, said):
    done = overspill(*args, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/*/*"))


def test_down_clears_a_cluster_whose_plan_is_broken(tmp_path):
    root = tmp_path / "overspill" / "a"
    processes = Processes(Paths(root))
    processes.ensure(Program(name="sleeper", argv=("sleep", "1000")))
    sleeper = processes.find("sleeper")
    (root / "cluster.json").write_text("{")
    done = overspill("down", "--name", "a", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "holds no plan any more" in done.stderr
    assert not sleeper.alive
    assert not root.exists()
