"""Virtual nodes for Kubernetes: a base of pods on your own nodes, the rest as serverless containers."""

__version__ = "0.1.0"  # pyproject.toml reads it here, so that no agent need search for its own metadata
