"""/stats/summary as its readers decode it."""

import json

from test_resourcemetrics import START, after, container, pod

from overspill.serve.nodeusage import NodeUsage
from overspill.serve.summary import summary


def read(node):
    return json.loads(summary(node, node_name="virtual-node-0", memory_bytes=1 << 30))


def test_a_node_and_its_pods():
    used = after(
        [pod("a", container(cpu=1.0, memory=1000)), pod("b", container(cpu=0.0), container("side"))],
        [pod("a", container(cpu=4.0, memory=2000), at=START + 75)],
    )
    at = "2023-11-14T22:14:35Z"
    cpu = {"time": at, "usageNanoCores": 200_000_000, "usageCoreNanoSeconds": 4_000_000_000}
    memory = {"time": at, "workingSetBytes": 2000}
    started = "2023-11-14T22:13:20Z"
    assert read(used) == {
        "node": {
            "nodeName": "virtual-node-0",
            "startTime": started,
            "cpu": cpu | {"usageCoreNanoSeconds": 5_500_000_000},
            "memory": memory | {"availableBytes": (1 << 30) - 2000},
        },
        "pods": [
            {
                "podRef": {"name": "a", "namespace": "shop", "uid": "uid-a"},
                "startTime": started,
                "containers": [{"name": "app", "startTime": started, "cpu": cpu, "memory": memory}],
                "cpu": cpu,
                "memory": memory,
            }
        ],
    }


def test_sums_of_a_pod():
    (told,) = read(after([pod("a", container(memory=3), container("side", memory=4))]))["pods"]
    assert [each["name"] for each in told["containers"]] == ["app", "side"]
    assert told["memory"]["workingSetBytes"] == 7
    assert told["cpu"]["usageNanoCores"] == sum(each["cpu"]["usageNanoCores"] for each in told["containers"])


def test_a_node_without_pods():
    told = read(NodeUsage(started_at=START, sampled_at=START))
    assert told["pods"] == []
    assert told["node"]["cpu"]["usageCoreNanoSeconds"] == 0
