"""What all tests share."""

import asyncio

import pytest
from hypothesis import HealthCheck, settings

from secret_scan import SECRETS

pytest_plugins = ["pytester"]

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_sessionstart():
    """Without this, looptime's plugin makes an event loop for the first plain test, and nobody closes it."""
    asyncio.set_event_loop(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that logged a secret has failed, whatever else it found."""
    report = yield
    SECRETS.add_environment()
    # A section is called "Captured stdout call"; those of earlier phases were looked at.
    logged = [text for name, text in report.sections if name.endswith(report.when)]
    leaks = SECRETS.leaks("\n".join(logged))
    if leaks and not report.failed:
        report.outcome = "failed"
        report.longrepr = "a secret was logged:\n" + "\n".join(leaks)
    return report
