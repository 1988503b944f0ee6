# Two commands do everything, set-up included: `make run` and `make test`. Plain `make` lists the rest.
# Every step of the set-up leaves a stamp in .venv/stamps, so a second run repeats only what changed.

PORT ?= 8080
MODEL ?= builtin
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
LOCK_VENV := $(VENV)/lock-tools
CONFORMANCE_VENV := $(VENV)/conformance
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The first Python that answers and is new enough; evaluated only when the environment is created.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install install-dev run test lint types soak conformance test-gpu bench lock clean distclean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMPS)/package $(STAMPS)/kernels ## set up .venv: torch, the hashed lock, this package, its C++ kernels

run: install ## serve MODEL (built-in) with the playground page on http://localhost:PORT (8080)
	$(BIN)/deepseek serve --model $(MODEL) --port $(PORT)

test: lint types ## ruff, mypy and the test suite
	$(BIN)/python -m pytest

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

soak: install-dev ## the tests that run for minutes on purpose
	$(BIN)/python -m pytest -m soak

conformance: install-dev $(STAMPS)/conformance ## the outside suites against a running server
	$(BIN)/python -m pytest -m conformance

test-gpu: install-dev ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: install-dev ## every benchmark beside its peer; docs/benchmarks.md quotes what they print
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

# PIP_COMPILE_ARGS=--upgrade moves the pins forward; without it only what pyproject.toml changed moves.
PIP_COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(LOCK_VENV)/bin/pip-compile --quiet --generate-hashes \
	--no-emit-options --strip-extras --allow-unsafe --resolver=backtracking $(PIP_COMPILE_ARGS)
lock: $(LOCK_VENV)/stamp ## write requirements/*.lock anew from pyproject.toml
	$(LOCK_VENV)/bin/python requirements/direct.py runtime | $(PIP_COMPILE) -o requirements/runtime.lock -
	$(LOCK_VENV)/bin/python requirements/direct.py dev | $(PIP_COMPILE) -c requirements/runtime.lock -o requirements/dev.lock -
	$(LOCK_VENV)/bin/python requirements/direct.py conformance | $(PIP_COMPILE) -o requirements/conformance.lock -
	$(LOCK_VENV)/bin/python requirements/direct.py torch-users | $(LOCK_VENV)/bin/python requirements/pinned.py > requirements/torch-users.lock

clean: ## remove caches and build outputs
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis deepseek/kernels/cpu/_build $(STAMPS)/kernels
	find deepseek tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv too
	rm -rf $(VENV)

install-dev: install $(STAMPS)/dev

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "deepseek needs Python 3.11 or newer, and found none on PATH. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "deepseek needs Python 3.11 or newer; $(PYTHON) is not." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot create a virtual environment: its venv or ensurepip module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(LOCK_VENV)/stamp: $(STAMPS)/venv
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet pip-tools==7.6.2
	@touch $@

# torch comes alone and first: which build of it fits (CPU, CUDA) is the machine's and pip's configuration to say.
$(STAMPS)/torch-2.13.0: $(STAMPS)/venv
	$(PIP) install torch==2.13.0
	@touch $@

$(STAMPS)/runtime: requirements/runtime.lock $(STAMPS)/torch-2.13.0
	$(PIP) install --require-hashes --no-deps -r requirements/runtime.lock
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/runtime
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: requirements/dev.lock requirements/torch-users.lock $(STAMPS)/runtime
	$(PIP) install --require-hashes --no-deps -r requirements/dev.lock -r requirements/torch-users.lock
	@touch $@

# lm-eval, apart: it brings half a gigabyte that nothing else here needs.
$(STAMPS)/conformance: requirements/conformance.lock $(STAMPS)/venv
	$(PYTHON) -m venv $(CONFORMANCE_VENV)
	$(CONFORMANCE_VENV)/bin/python -m pip --disable-pip-version-check install --require-hashes --no-deps -r requirements/conformance.lock
	@touch $@

# No stamp without a compiler: the kernels are built as soon as there is one.
$(STAMPS)/kernels: $(wildcard deepseek/kernels/cpu/build.py deepseek/kernels/cpu/src/*) $(STAMPS)/package
	@if { command -v $(firstword $(CXX)) || command -v c++ || command -v clang++; } >/dev/null; then \
		$(BIN)/python -m deepseek.kernels.cpu.build && touch $@; \
	else \
		echo "No C++ compiler on PATH: the slower reference kernels are used. Install g++ or set CXX, then run make again." >&2; \
	fi
