"""Real clusters for tests, each started and taken down by the command that a user has."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from cluster_secrets import leaked
from kubectl_world import kubectl, plain, streaming  # noqa: F401 - fixtures of the tests of streams
from placement_world import space, world  # noqa: F401 - fixtures of the tests of placement

from overspill.local.kubectl import kubectl_path

ROOT = pathlib.Path(__file__).parents[2]
OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")


class Cluster:
    """A local cluster, driven by `overspill` and kubectl as a user would."""

    def __init__(self, name):
        self.name = name

    def overspill(self, command, *args, stdin=None, timeout=None, check=True):
        """Run a command on this cluster; returns the finished process.

        An `up` that repairs waits for its nodes for up to three minutes, and says in vain for which.
        """
        timeout = timeout or (300 if command == "up" else 120)
        done = subprocess.run(
            [OVERSPILL, *command.split(), "--name", self.name, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"overspill {command} {' '.join(args)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def kubectl(self, *args, stdin=None, check=True, timeout=120):
        """Run kubectl; returns its output, or raises AssertionError with what it said."""
        argv, environment = self._kubectl(args)
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def kubectl_lines(self, *args):
        """A running kubectl, whose lines are read as they come."""
        argv, environment = self._kubectl(args)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)

    def _kubectl(self, args):
        program, environment = kubectl_path(self.name)  # what `overspill kubectl` does, without its start
        return [program, *args], {**os.environ, **environment}

    def get(self, *args):
        """What `kubectl get -o json` prints, parsed; a list gives its items."""
        found = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found.get("items", found)

    def apply(self, *manifests):
        """Apply objects."""
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)))

    def processes(self):
        """Name -> pid of the cluster's living processes."""
        done = self.overspill("status", "-o", "json", check=False)
        return {each["name"]: each["pid"] for each in json.loads(done.stdout)["processes"] if each["alive"]}


def until(check, *, seconds=60, what=""):
    """Wait for `check` to return something true and return that.

    An AssertionError counts as not yet, and so does a LookupError: an object or field that is not there for now.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = None
        try:
            if last := check():
                return last
        except (AssertionError, LookupError) as error:
            last = repr(error)
        if time.monotonic() > deadline:
            pytest.fail(f"{what or check} not within {seconds} s; last seen: {last}")
        time.sleep(0.25)  # between looks at a condition, not instead of one; most looks are a kubectl each


@contextlib.contextmanager
def running(name, *flags):
    """A cluster of this name, gone afterwards; no secret of it may stand in its logs."""
    cluster = Cluster(f"{name}-{os.getpid()}")
    try:
        cluster.overspill("up", *flags, timeout=1800)
        yield cluster
        assert leaked(cluster) == []
    finally:
        cluster.overspill("down", timeout=180)


@pytest.fixture(scope="session")
def needs_root():
    """Skip what cannot be had without root and Podman."""
    if os.geteuid() or not shutil.which("podman"):
        pytest.skip(
            "a worker and real containers need root and Podman: run `make setup` and the tests as root"
        )


@pytest.fixture(scope="session")
def start_cluster():
    """`running`, for tests that cannot import from here."""
    return running


@pytest.fixture(name="until", scope="session")
def until_fixture():
    """`until`, for tests that cannot import from here."""
    return until


@pytest.fixture(scope="session")
def control_plane():
    """A control plane with neither worker nor virtual nodes."""
    with running("cp", "--workers", "0", "--virtual-nodes", "0", "--backend", "simulated") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(needs_root):
    """A whole cluster: worker, one virtual node, Podman as the cloud; tests keep to a namespace of their own.

    Without ECI's API between, so that Podman's own labels tell which pod a container is of.
    """
    with running("e2e", "--backend", "podman") as cluster:
        yield cluster
