# `make` alone lists what there is. Everything here may be repeated; what is done is not done again.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports test-unit test-flow test-contract test-beside test-e2e test-placement test-matrix chaos overload bench bench-eci bench-placement bench-gates clean
.NOTPARALLEL:

bin := .venv/bin
export YES

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything that is needed, build the control plane (YES=1: without asking)
	@scripts/setup

$(bin)/overspill:
	@scripts/setup

demo: setup ## Walk through virtual nodes on a fresh local cluster (KEEP=1: leave it running)
	@$(bin)/python -m overspill.cli.main demo

test: setup lint types imports test-unit test-beside test-e2e ## Run every check and test

lint: $(bin)/overspill ## Check style, format and spelling
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/codespell

types: $(bin)/overspill ## Check types
	$(bin)/mypy

imports: $(bin)/overspill ## Check that imports point one way
	@$(bin)/lint-imports

test-unit: $(bin)/overspill ## Test pure functions
	$(bin)/pytest -q tests/unit

test-flow: $(bin)/overspill ## Test I/O against small servers in the test's own process
	$(bin)/pytest -q tests/flow

test-contract: $(bin)/overspill ## Test every backend against the one contract
	$(bin)/pytest -q tests/contract

# Both wait for most of their time. What the second one says is printed once the first has ended.
test-beside: $(bin)/overspill ## Run test-flow and test-contract side by side
	@said=$$(mktemp); $(MAKE) -s test-contract > $$said 2>&1 & contract=$$!; \
	trap 'kill $$contract' INT TERM; $(MAKE) -s test-flow; flow=$$?; \
	wait $$contract; contract=$$?; cat $$said; rm -f $$said; exit $$((flow | contract))

test-e2e: $(bin)/overspill ## Test on real clusters (a worker needs root and Podman; without, those tests say so)
	$(bin)/pytest -q tests/e2e -m "not matrix"

test-placement: $(bin)/overspill ## Test all scenarios of placement on a real control plane
	$(bin)/pytest -q tests/unit tests/flow tests/e2e -k placement

test-matrix: $(bin)/overspill ## Test on real clusters what `make test` leaves out
	$(bin)/pytest -q tests/e2e -m matrix

# Seeds to run, and minutes for each.
CHAOS_SEEDS ?= 1 2 3
CHAOS_MINUTES ?= 5

chaos: setup ## Let things go wrong for a while, and see what holds (docs/chaos.md)
	@PYTHONPATH=tests $(bin)/python -m chaos --seed $(CHAOS_SEEDS) --minutes $(CHAOS_MINUTES)

overload: setup ## Ask for three times the quota for ten minutes, and replace 2,000 pods at once
	$(bin)/pytest -q tests/e2e/test_overload.py

bench: setup ## Measure the agent on a tuned control plane, and its streams
	@$(bin)/python benchmarks/pods.py
	@$(bin)/python benchmarks/streams.py

bench-eci: setup ## Measure 3,000 container groups on the ECI path, with the default quota and without
	@$(bin)/python benchmarks/eci.py

bench-placement: setup ## Measure placing pods, beside a bare loop of the same PATCHes and beside no policy
	@$(bin)/python benchmarks/placement.py

bench-gates: setup ## Measure what the gate adds to a pod's creation: policy, webhook, nothing
	@$(bin)/python benchmarks/gates.py

clean: ## Remove .venv and the tools' caches; builds stay in the cache folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@echo "builds and images stay in $${XDG_CACHE_HOME:-$$HOME/.cache}/overspill; running clusters are untouched"
