"""Pods that kubectl works on, and kubectl in either of its two modes of streaming."""

import contextlib
import os
import pty
import re
import select
import subprocess
import time

import pytest

from overspill.local.images import BUSYBOX, WEB
from overspill.local.kubectl import kubectl_path

NODE = "virtual-node-eci-0"
SPACE = "streams"
MIB = 1 << 20
SPEAKER = "for i in 1 2 3; do echo line $i; done; echo problem >&2; exec sleep 100000"


def pod(name, *command, node=NODE, image=BUSYBOX, restart="Always", **container):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "nodeName": node,
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "c", "image": image, **({"command": list(command)} if command else {}), **container}
            ],
        },
    }


class Kubectl:
    """kubectl in one of its two modes."""

    def __init__(self, cluster, *, websockets):
        self.program, environment = kubectl_path(cluster.name)
        mode = str(websockets).lower()
        self.environment = {
            **os.environ,
            **environment,
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": mode,
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": mode,
        }

    def argv(self, *args):
        return [self.program, "-n", SPACE, *args]

    def run(self, *args, stdin=b"", timeout=120):
        """The finished process; its output is bytes."""
        return subprocess.run(
            self.argv(*args),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=timeout,
            env=self.environment,
        )

    def said(self, *args, **options):
        """What it prints, when it succeeds."""
        done = self.run(*args, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    @contextlib.contextmanager
    def started(self, *args, **options):
        """It running; killed afterwards."""
        with subprocess.Popen(self.argv(*args), env=self.environment, **options) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="session")
def streaming(cluster, until):
    """The pods that most tests look at, and kubectl works on them."""
    cluster.kubectl("create", "namespace", SPACE)
    cluster.apply(
        pod("speaker", "sh", "-c", SPEAKER),
        pod("ticker", "sh", "-c", "while sleep 0.2; do echo tick; done"),
        pod("web", image=WEB[0]),
        pod("restarted", "sh", "-c", "echo one of several runs; sleep 1; exit 3"),
        pod("short", "sh", "-c", "echo begin; sleep 3; echo end", restart="Never"),
    )
    cluster.kubectl(
        "-n", SPACE, "wait", "--for=condition=Ready", "pod/speaker", "pod/ticker", "pod/web", "--timeout=90s"
    )
    until(lambda: cluster.kubectl("-n", SPACE, "logs", "speaker"), what="logs")
    return cluster


@pytest.fixture(params=[True, False], ids=["websockets", "spdy"])
def kubectl(streaming, request):
    return Kubectl(streaming, websockets=request.param)


@pytest.fixture(scope="session")
def plain(streaming):
    return Kubectl(streaming, websockets=True)


@contextlib.contextmanager
def forwarded(kubectl, name, port):
    """A port of this machine that leads to one of a pod."""
    with kubectl.started("port-forward", f"pod/{name}", f":{port}", stdout=subprocess.PIPE) as process:
        yield int(re.search(rb":(\d+) ->", process.stdout.readline())[1])


def talk(kubectl, *args, script, ends, timeout=60):
    """What kubectl shows on a terminal to which `script` is typed, until `ends` is there and it exits."""
    leader, follower = pty.openpty()
    with kubectl.started(*args, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown, typed, deadline = b"", False, time.monotonic() + timeout
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    data = os.read(leader, 65536)
                except OSError:  # the other side is closed
                    break
                shown += data
            elif process.poll() is not None:
                break
            if not typed and re.search(rb"[#$] ", shown):
                os.write(leader, script)
                typed = True
        os.close(leader)
        code = process.wait(10)
    assert ends in shown, shown
    return code


def gauge(kubectl, name):
    """A series of the agent's own, through the apiserver."""
    text = kubectl.said("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics")
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])
