"""Annotations of a pod, and the luck that options give it."""

import math
import pathlib

import pytest

from overspill.backends.simulated.options import Delay, Options
from overspill.backends.simulated.script import CONTAINER_WORDS, POD_WORDS, PREFIX, Behaviour, Scripts
from overspill.errors import Rejected
from overspill.model.work import Container, Identity, WorkSpec


def pod(uid="u", **annotations):
    return WorkSpec(
        identity=Identity("c", "n", "ns", "web", uid),
        containers=(Container("web", "i"), Container("log", "i")),
        init_containers=(Container("init", "i"),),
        hostname="web",
        annotations={
            "example.org/other": "x",
            **{PREFIX + key.replace("_", "-"): value for key, value in annotations.items()},
        },
    )


def behaviour(work, name, options=None):
    script = Scripts(options or Options()).script(work)
    containers = {
        c.name: (c, init) for init, cs in ((True, work.init_containers), (False, work.containers)) for c in cs
    }
    container, init = containers[name]
    return script.of(container, init=init)


def test_without_annotations_pods_share_a_script_that_runs_for_ever():
    scripts = Scripts(Options())
    assert scripts.script(pod("a")) is scripts.script(pod("b"))
    assert behaviour(pod(), "web").run_seconds is None
    assert behaviour(pod(), "init") == Behaviour(run_seconds=Delay())


@pytest.mark.parametrize(
    ("annotation", "value", "field", "parsed"),
    [
        ("run-seconds", "uniform(1,2)", "run_seconds", Delay("uniform", 1, 2)),
        ("run-seconds", "forever", "run_seconds", None),
        ("stop-seconds", "3", "stop_seconds", Delay("constant", 3)),
        ("exit-code", "137", "exit_code", 137),
        ("exit-reason", "OOMKilled", "exit_reason", "OOMKilled"),
        ("pull-failures", "always", "pull_failures", math.inf),
        ("pull-failures", "2", "pull_failures", 2),
        ("output", "a\nb", "output", "a\nb"),
        ("log-seconds", "0.5", "log_seconds", 0.5),
        ("cpu", "250m", "cpu", 0.25),
        ("memory", "1Gi", "memory", 2**30),
    ],
)
def test_annotations_of_containers(annotation, value, field, parsed):
    everybody = pod(**{annotation: value})
    assert getattr(behaviour(everybody, "web"), field) == parsed
    assert getattr(behaviour(everybody, "log"), field) == parsed
    assert behaviour(everybody, "init") == behaviour(pod(), "init"), "init containers are asked by name"
    for name in ("log", "init"):
        assert getattr(behaviour(pod(**{f"{annotation}.{name}": value}), name), field) == parsed
    assert behaviour(pod(**{f"{annotation}.log": value}), "web") == behaviour(pod(), "web")


def test_annotations_of_the_pod():
    work = pod(start_seconds="2", no_stock_seconds="30", lost_replies="1")
    script = Scripts(Options(start_seconds="9")).script(work)
    assert (script.start_seconds, script.no_stock_seconds, script.lost_replies) == (Delay(first=2.0), 30.0, 1)


def test_one_container_keeps_what_was_said_to_all():
    work = pod(**{"exit-code": "3", "run-seconds.log": "1"})
    assert behaviour(work, "log").exit_code == 3


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"colour": "red"}, "simulated.overspill.dev/colour is unknown; there are start-seconds"),
        ({"exit-code": "three"}, "simulated.overspill.dev/exit-code: .*three"),
        ({"exit-code.absent": "3"}, "the pod has no container 'absent'"),
        ({"start-seconds.web": "3"}, "start-seconds.web is unknown"),
        ({"run-seconds": "a while"}, "'a while' is no time"),
    ],
)
def test_wrong_annotations_are_refused(annotations, message):
    with pytest.raises(Rejected, match=message):
        Scripts(Options()).script(pod(**annotations))


def test_rates_hit_their_part_of_the_pods_whatever_the_order():
    scripts = Scripts(Options(crash_rate=0.25, pull_failure_rate=0.1, lost_reply_rate=0.5))
    drawn = {number: scripts.script(pod(str(number))) for number in range(2000)}
    share = {
        "crash": sum(script.app.exit_code == 1 for script in drawn.values()) / 2000,
        "pull": sum(script.app.pull_failures == math.inf for script in drawn.values()) / 2000,
        "reply": sum(script.lost_replies for script in drawn.values()) / 2000,
    }
    assert share == pytest.approx({"crash": 0.25, "pull": 0.1, "reply": 0.5}, abs=0.04)
    again = {number: scripts.script(pod(str(number))) for number in reversed(range(2000))}
    assert again == drawn


def test_every_option_and_annotation_is_documented():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "simulated.md").read_text()
    words = {*Options.__struct_fields__, *POD_WORDS, *CONTAINER_WORDS}
    assert not [word for word in words if f"`{word}`" not in page]
