"""A real single-node Kubernetes on this machine, and virtual nodes on it."""
