"""How a process of ours takes signals: tried on real processes."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from overspill.process import run_until_signalled

asked = asyncio.Event() if sys.argv[1] == "asked" else None

async def main():
    print("running", flush=True)
    try:
        if asked:
            await asked.wait()
            print("asked", flush=True)
        await asyncio.sleep(60)
    finally:
        print("let go", flush=True)

run_until_signalled(main(), asked=asked)
"""


def running(kind):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_cancellation_that_is_waited_for(number):
    process = running("plain")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("let go\n", "", 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_sigterm_asks_and_the_second_signal_ends(second):
    process = running("asked")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    assert process.poll() is None
    process.send_signal(second)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("let go\n", "", 0)


def test_sigint_asks_nobody():
    process = running("asked")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("let go\n", "", 0)
