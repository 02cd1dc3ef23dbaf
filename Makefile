# What README and CI call. Everything is installed into .venv beside this file; nothing outside it is touched.
#
#   make serve ARGS="--port 9000"     make test ARGS="tests/geometry -x"     make setup PYTHON=python3.12

PYTHON ?= python3
ARGS =
VENV := .venv
BIN := $(VENV)/bin
CHECKED := service training tests benchmarks
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --editable

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-slow recipes lint bench fuzz faults lock release

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## make .venv and install everything that tests and checks need

serve: $(VENV)/.installed-serve  ## start the service on 127.0.0.1:8000 with the embedded models
	$(BIN)/poselift serve $(ARGS)

test: $(VENV)/.installed  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.installed  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

recipes: $(VENV)/.installed  ## run every recipe of the paper for two steps on made data
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/python -m training check $(ARGS)  # spinning threads: ten times slower on a busy machine

lint: $(VENV)/.installed  ## check style, format and types
	$(BIN)/python -m ruff check $(CHECKED)
	$(BIN)/python -m ruff format --check $(CHECKED)
	$(BIN)/python -m mypy --strict $(CHECKED)

bench: $(VENV)/.installed-bench  ## measure the speed
	$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(VENV)/.installed $(VENV)/.installed-bench  ## send 20,000 mutated bodies to a service
	$(BIN)/python -m tests.fuzz $(ARGS)

faults: $(VENV)/.installed  ## break disk, memory, engines, clocks and imports, and see that nobody is left without an answer
	$(BIN)/python -m pytest tests/faults -m "not cuda" $(ARGS)

lock: $(VENV)/.installed  ## pin the packages of the images, with hashes, from pyproject.toml
	$(BIN)/python docker/lock.py $(ARGS)

release: $(VENV)/.installed  ## build what a release consists of into dist/: see docs/releasing.md
	$(BIN)/python docker/release.py $(ARGS)

# A .venv that is there already is kept, so that a CPU-only torch put into it by hand stays.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "poselift needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there')." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@# Without Debian's python3-venv this leaves a half-made folder that the next run would take for whole.
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Stamps, so that pip runs again only when pyproject.toml changed. Serving does not wait for the test tools.
$(VENV)/.installed-serve: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes minutes, torch is large."
	$(INSTALL) '.[cpu]'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes minutes, torch is large."
	$(INSTALL) '.[cpu,dev]'
	@touch $@ $(VENV)/.installed-serve

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,bench]'
	@touch $@
