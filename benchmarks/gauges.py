"""What a run costs, read from /proc and from the programs' own metrics.

In: process ids, /metrics texts. Out: `Reading`s, and the difference between two.
"""

import os
import re
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
# What the controllers and etcd's health do by themselves is no work of an agent.
NOISE = {"GET", "LIST", "WATCH"}


@dataclass(frozen=True)
class Reading:
    """CPU seconds by program, and the apiserver's requests by (verb, resource) so far."""

    cpu: dict[str, float]
    requests: Counter[str]

    def since(self, before: "Reading") -> "Reading":
        """What came between."""
        cpu = {name: used - before.cpu.get(name, 0.0) for name, used in self.cpu.items()}
        return Reading(cpu, self.requests - before.requests)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory(pid: int) -> float:
    """The largest resident size so far, in MB."""
    return _megabytes(pid, "VmHWM")


def memory(pid: int) -> float:
    """The resident size, in MB."""
    return _megabytes(pid, "VmRSS")


def _megabytes(pid: int, field: str) -> float:
    line = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line[1]) * 1024 / 1e6 if line else 0.0


def descriptors(pid: int) -> int:
    """How many files, sockets among them, a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def requests_of(metrics: str) -> Counter[str]:
    """The apiserver's requests that change something, by verb and resource."""
    found: Counter[str] = Counter()
    for labels, count in REQUESTS.findall(metrics):
        label = dict(LABEL.findall(labels))
        if label["verb"] not in NOISE:
            resource = "/".join(filter(None, (label["resource"], label["subresource"])))
            found[f"{label['verb']} {resource}"] += int(float(count))
    return found


def scraped(address: str, series: str) -> float:
    """The sum of one series of a program's /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{series}[ {{]", line)
    )
