PYTHON ?= python3
# One environment for each version of Python; empty where there is no such interpreter.
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help venv quickstart test test-all coverage lint format

help:
	@echo "make venv         set up .venv with PYTHON=... (python3)"
	@echo "make quickstart   set up .venv and train the quickstart job"
	@echo "make test         set up .venv and run what every commit must pass, in ten minutes"
	@echo "make test-all     run the tests that make test leaves out: faults, nodes, cluster, browser"
	@echo "make coverage     measure what the unit tests run, line and branch, into coverage/"
	@echo "make lint         format, lint, type and import checks"
	@echo "make format       format and fix what can be fixed"

quickstart: venv
	$(BIN)/ltm-platform submit jobs/quickstart.yaml

# The tests start hundreds of processes that import the packages: they are compiled once.
export PYTHONDONTWRITEBYTECODE :=

UNIT := tests/test_house.py tests/benchmarks tests/ltm tests/ltm_platform

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(UNIT) -m "not slow" --numprocesses auto --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e -m "not slow" --numprocesses 3

test-all: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(UNIT) -m slow --numprocesses auto --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e -m slow --numprocesses auto

coverage: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(UNIT) --numprocesses auto --dist loadfile \
	  --cov --cov-report=term --cov-report=xml --cov-report=html

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# .venv is the environment used last: a link, unless a folder of that name is there already.
venv: $(INSTALLED)
	@if [ -d .venv ] && [ ! -h .venv ]; then \
	  echo "using $(VENV); .venv is a folder of its own: remove it to have it linked to $(VENV)" >&2; \
	elif [ "$$(readlink .venv)" != $(VENV) ]; then ln -sfn $(VENV) .venv; fi

# Stale as soon as what is to be installed changes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ltm-platform needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing): name another one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
