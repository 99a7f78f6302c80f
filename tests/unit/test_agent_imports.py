"""What an agent's process has in memory: it runs for months, one for each virtual node."""

import json
import subprocess
import sys

import pytest

from overspill.agent.imports import STOOD_IN, WITHOUT

# Each of these is heavier than 50 pods, or brings such a one; what needs it imports it when it does.
TOO_HEAVY = {
    *WITHOUT,
    *STOOD_IN,
    "aiohttp",
    "click",
    "cryptography",
    "email",
    "html",
    "http.client",
    "importlib.metadata",
    "jinja2",
    "logging.config",
    "multiprocessing",
    "overspill.cli",
    "overspill.emulator",
    "overspill.local",
    "overspill.pki",
    "overspill.placement",
    "overspill.serve.streams",
    "pydoc",
    "shutil",
    "sqlite3",
    "tempfile",
    "typer",
    "unittest",
    "yaml",
}
# These speak HTTP by aiohttp.
OF_AIOHTTP = {
    "aiohttp",
    "email",
    "http.client",
    "shutil",
    "tempfile",
    "typing_extensions",
    "urllib.error",
    "urllib.request",
}
ALLOWED = {"simulated": set(), "podman": OF_AIOHTTP, "eci": OF_AIOHTTP}
PROGRAM = """
import json, sys
import overspill.agent.__main__
from overspill.backends.registry import load_factory
load_factory(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def run_python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("backend", ALLOWED)
def test_an_agent_imports_nothing_heavy_that_it_does_not_use(backend):
    target = f"overspill.backends.{backend}.backend:{backend.capitalize()}Backend"

    imported = set(json.loads(run_python(PROGRAM, target)))

    assert imported & TOO_HEAVY - ALLOWED[backend] == set()
    assert {"asyncio", "msgspec", "prometheus_client", "structlog"} <= imported


def test_what_was_left_out_is_there_for_a_backend_that_needs_it():
    program = "import overspill.agent.__main__, http.server, urllib.request, rich.text; print(http.server.HTTPServer)"

    assert run_python(program).strip() == "<class 'http.server.HTTPServer'>"


def test_what_was_there_before_stays():
    program = "import http.server as one, overspill.agent.__main__, http.server as two; print(one is two)"

    assert run_python(program).strip() == "True"
