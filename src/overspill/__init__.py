"""Virtual nodes for Kubernetes: a base of pods on your own nodes, the rest as serverless containers."""

from importlib.metadata import version

__version__ = version("overspill")
