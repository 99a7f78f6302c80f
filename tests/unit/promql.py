"""Names of series in PromQL, and those that our programs expose."""

import re

from overspill import metrics

# PromQL beside names of series: aggregations, matchers, ranges, texts; functions are followed by a bracket.
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"")
NAME = re.compile(r"\b[a-z_][a-z0-9_:]*\b(?!\s*\()")
TYPES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("",)}


def used(expression):
    """The series that an expression names."""
    return {name for name in NAME.findall(GROUPING.sub(" ", expression)) if "_" in name}


def exposed():
    """Names of all samples that agent and controller expose."""
    stop = metrics.observe_pods(dict)
    try:
        lines = metrics.exposition().decode().splitlines()
    finally:
        stop()
    kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE ")]
    return {name + suffix for name, kind in kinds for suffix in TYPES[kind]}
