"""The command line as a user meets it: exit codes, where words go, what is imported."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from overspill.local.paths import Paths, write_file
from overspill.local.plan import PORTS, Plan, save_plan
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


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("cost", "-f", "pods.json"), 1, "pods.json does not hold a list of pods"),
        (("check", "pods.json"), 2, "items is no list"),
        (("emulator", "serve", "--state", "state", "--log-level", "foo"), 2, "foo"),
        (("emulator", "serve", "--state", "pods.json/state"), 1, "pods.json/state cannot be used"),
        (("emulator", "serve", "--state", "spoiled"), 1, "spoiled cannot be used"),
        (("image", "-o", "/tmp"), 1, "/tmp is a folder"),
        (("image", "-o", "missing/image.tar"), 1, "there is no folder missing"),
        (("kubectl", "--name", "a", "--", "version"), 1, "`overspill up --name a` builds"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(tmp_path, monkeypatch, args, code, said):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("pods.json").write_text('{"items": 5}')
    write_file(pathlib.Path("spoiled/emulator.sqlite"), "no database" * 100)
    started_without_cache(tmp_path / "overspill" / "a")
    done = overspill(*args, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def started_without_cache(root):
    """A cluster that ran before the cache with its programs was deleted."""
    planned(root)
    (root / "kubeconfig").touch()
    record = {"name": "kube-apiserver", "pid": 1, "started": 0, "boot": "", "argv": ["/gone/kube-apiserver"]}
    write_file(root / "processes" / "kube-apiserver.json", json.dumps(record))


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


def test_down_clears_a_cluster_with_a_record_that_a_power_cut_left_empty(tmp_path):
    root = tmp_path / "overspill" / "a"
    (root / "processes").mkdir(parents=True)
    (root / "processes" / "etcd.json").touch()
    planned(root)
    done = overspill("down", "--name", "a", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not root.exists()


def planned(root, **options):
    """A cluster of which there is nothing but the plan: its first `up` still builds, or was broken off."""
    given = {"workers": 0, "virtual_nodes": 1, "backend": "simulated", "tuned": False}
    ports = dict.fromkeys(PORTS, 1)
    save_plan(
        Paths(root), Plan(name=root.name, network="10.1.0.0/16", link="ovs0", ports=ports, **given | options)
    )


@pytest.mark.parametrize("backend", ["simulated", "eci"])
def test_a_cluster_that_is_being_built_is_not_ready(tmp_path, backend):
    planned(tmp_path / "overspill" / "a", backend=backend)
    done = overspill("status", "--name", "a", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (3, "")
    assert "not ready; repair it with `overspill up --name a`" in done.stdout


@pytest.mark.parametrize("left", [None, b"", b"\0\0"], ids=["nothing", "an empty file", "zeros"])
def test_a_cluster_whose_emulator_was_not_started_has_no_orphans_to_look_for(tmp_path, left):
    root = tmp_path / "overspill" / "a"
    planned(root, backend="eci")
    if left is not None:
        write_file(root / "emulator" / "endpoint.json", left)
    done = overspill("orphans", "list", "--name", "a", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: cluster 'a' has no emulator yet; ")
    assert "`overspill up --name a`" in done.stderr
