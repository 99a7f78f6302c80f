"""The controller: what one process of it runs, and who of its replicas does."""
