"""One process, one virtual node."""
