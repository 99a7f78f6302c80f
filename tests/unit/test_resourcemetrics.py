"""/metrics/resource as metrics-server reads it, and the sums behind it."""

import re

import pytest

from overspill.backends.base import ContainerUsage, PodUsage
from overspill.model.work import Identity
from overspill.serve.nodeusage import NodeUsage, next_usage
from overspill.serve.resourcemetrics import resource_metrics

START = 1_700_000_000.0
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: (\d+))?")


def pod(name="web", *containers, at=START + 60):
    identity = Identity(cluster="c", node="n", namespace="shop", name=name, uid=f"uid-{name}")
    return PodUsage(identity, at, containers or (container(),))


def container(name="app", cpu=1.5, memory=20_000_000, started=START):
    return ContainerUsage(name, cpu, memory, started)


def after(*samples, node=None):
    """The node after several samples, each a list of pods."""
    node = node or NodeUsage(started_at=START, sampled_at=START)
    for index, pods in enumerate(samples):
        node = next_usage(node, pods, now=START + 60 + 15 * index)
    return node


def read(node):
    """Lines as (name, labels) -> (value, milliseconds)."""
    found = {}
    for line in resource_metrics(node).decode().splitlines():
        if not line.startswith("#"):
            name, labels, value, stamp = LINE.fullmatch(line).groups()
            assert (name, labels) not in found
            found[name, labels] = (float(value), int(stamp) if stamp else None)
    return found


OF_APP = 'container="app",namespace="shop",pod="web"'
OF_POD = 'namespace="shop",pod="web"'


def test_every_line_of_one_pod():
    assert read(after([pod()])) == {
        ("container_cpu_usage_seconds_total", OF_APP): (1.5, 1_700_000_060_000),
        ("container_memory_working_set_bytes", OF_APP): (20_000_000, 1_700_000_060_000),
        ("container_start_time_seconds", OF_APP): (START, None),
        ("node_cpu_usage_seconds_total", None): (1.5, 1_700_000_060_000),
        ("node_memory_working_set_bytes", None): (20_000_000, 1_700_000_060_000),
        ("pod_cpu_usage_seconds_total", OF_POD): (1.5, 1_700_000_060_000),
        ("pod_memory_working_set_bytes", OF_POD): (20_000_000, 1_700_000_060_000),
        ("resource_scrape_error", None): (0, None),
    }


def test_types_stand_before_their_samples():
    text = resource_metrics(after([pod()])).decode()
    assert "# TYPE container_cpu_usage_seconds_total counter\ncontainer_cpu_usage_seconds_total{" in text
    assert "# TYPE container_start_time_seconds gauge\ncontainer_start_time_seconds{" in text


def test_nothing_is_ever_zero():
    idle = read(after([pod("web", container(cpu=0.0, memory=0))]))
    assert all(value > 0 for (name, _), (value, _) in idle.items() if "scrape_error" not in name)
    assert idle["container_cpu_usage_seconds_total", OF_APP][0] * 1e9 >= 1


def test_a_node_without_pods_is_stamped_with_the_time_of_asking():
    empty = read(after([], []))
    assert empty["node_cpu_usage_seconds_total", None] == (1e-9, 1_700_000_075_000)
    assert empty["node_memory_working_set_bytes", None] == (1, 1_700_000_075_000)
    assert len(empty) == 3


def test_totals_add_up():
    node = after([pod("a", container(cpu=0.1), container("side", cpu=0.2)), pod("b", container(cpu=4.0))])
    lines = read(node)
    for what in ("cpu_usage_seconds_total", "memory_working_set_bytes"):
        sums = {
            level: sum(value for (name, _), (value, _) in lines.items() if name == f"{level}_{what}")
            for level in ("container", "pod", "node")
        }
        assert sums["container"] == pytest.approx(sums["pod"]) == pytest.approx(sums["node"])


def test_the_node_keeps_what_gone_pods_used():
    first = after([pod("a", container(cpu=5.0)), pod("b", container(cpu=7.0))])
    second = next_usage(first, [pod("b", container(cpu=8.0), at=START + 75)], now=START + 75)
    assert (first.cpu_seconds, second.cpu_seconds) == (12.0, 13.0)
    assert second.memory_bytes == 20_000_000


def test_a_restarted_container_takes_nothing_from_pod_or_node():
    first = after([pod("a", container(cpu=5.0))])
    again = container(cpu=0.5, started=START + 70)
    second = next_usage(first, [pod("a", again, at=START + 75)], now=START + 75)
    assert second.cpu_seconds == second.pods["uid-a"].cpu_seconds == 5.5
    assert read(second)["container_cpu_usage_seconds_total", OF_APP.replace("web", "a")][0] == 0.5
    assert second.pods["uid-a"].rates() == {"app": pytest.approx(0.5 / 5)}


def test_a_pod_of_the_same_name_is_another_pod():
    first = after([pod("a", container(cpu=5.0))])
    other = pod("a", container(cpu=1.0, started=START + 70), at=START + 75)
    other = PodUsage(Identity("c", "n", "shop", "a", "another uid"), other.sampled_at, other.containers)
    assert next_usage(first, [other], now=START + 75).cpu_seconds == 6.0


def test_a_sample_told_twice_keeps_its_time_and_its_rate():
    first, second = pod("a", container(cpu=1.0)), pod("a", container(cpu=2.5), at=START + 75)
    node = after([first], [second], [second], [second])
    assert node.sampled_at == START + 75
    assert node.pods["uid-a"].rates() == {"app": 0.1}
    assert node.cpu_seconds == 2.5


def test_time_does_not_go_back_when_the_newest_pod_is_gone():
    node = after([pod("a", at=START + 100), pod("b", at=START + 60)], [pod("b", at=START + 70)])
    assert node.sampled_at == START + 100


def test_figures_that_could_not_be_renewed_say_so():
    node = NodeUsage(started_at=START, sampled_at=START, failed=True)
    assert read(node)["resource_scrape_error", None] == (1, None)


def test_cpu_of_the_first_sample_is_taken_since_the_start():
    assert after([pod("a", container(cpu=6.0))]).pods["uid-a"].rates() == {"app": 0.1}
