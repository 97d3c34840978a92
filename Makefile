PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help quickstart test test-all coverage lint format

help:
	@echo "make quickstart   set up .venv and train the quickstart job"
	@echo "make test         set up .venv and run what every commit must pass, in ten minutes"
	@echo "make test-all     run the tests that make test leaves out: faults, nodes, cluster, browser"
	@echo "make coverage     measure what the unit tests run, line and branch, into coverage/"
	@echo "make lint         format, lint, type and import checks"
	@echo "make format       format and fix what can be fixed"

quickstart: $(INSTALLED)
	$(BIN)/ltm-platform submit jobs/quickstart.yaml

UNIT := tests/ltm tests/ltm_platform --numprocesses auto --dist loadfile
E2E := tests/e2e --numprocesses 2

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(UNIT) -m "not slow"
	$(BIN)/python -m pytest $(E2E) -m "not slow"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(E2E) -m slow

coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(UNIT) --cov --cov-report=xml --cov-report=html --cov-report=term

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Stale as soon as what is to be installed changes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ltm-platform needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing): name another one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
