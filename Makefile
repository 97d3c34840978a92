PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help quickstart test lint format

help:
	@echo "make quickstart   set up .venv and train the quickstart job"
	@echo "make test         set up .venv and run all tests"
	@echo "make lint         format, lint, type and import checks"
	@echo "make format       format and fix what can be fixed"

quickstart: $(INSTALLED)
	$(BIN)/ltm-platform submit jobs/quickstart.yaml

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ltm tests/ltm_platform --numprocesses auto --dist loadfile
	$(BIN)/python -m pytest tests/e2e --numprocesses 2

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
