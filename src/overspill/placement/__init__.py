"""How many pods of a workload run where: pools, ranks, the assigner."""
