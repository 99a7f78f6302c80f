"""Names of series in PromQL, and those that our programs expose."""

import re

from overspill import metrics
from overspill.backends.eci.spending import Spending

# PromQL beside names of series: aggregations, matchers, ranges, texts; functions are followed by a bracket.
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"")
NAME = re.compile(r"\b[a-z_][a-z0-9_:]*\b(?!\s*\()")
# Prometheus' own, of each target: whether it could be scraped.
UP = "up"
TYPES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("",)}


def used(expression):
    """The series that an expression names."""
    return {name for name in NAME.findall(GROUPING.sub(" ", expression)) if "_" in name or name == UP}


def exposed():
    """Names of all samples that agent and controller expose, and of what Prometheus adds."""
    stop = metrics.observe_pods(dict)
    try:
        with Spending(()):
            lines = metrics.exposition().decode().splitlines()
    finally:
        stop()
    kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE ")]
    return {UP} | {name + suffix for name, kind in kinds for suffix in TYPES[kind]}
