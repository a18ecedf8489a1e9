# Everything a developer, CI or pre-commit does goes through these targets: `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
UV      := env -u VIRTUAL_ENV -u UV_PROJECT_ENVIRONMENT $(BIN)/uv
TOLLWAY := $(BIN)/tollway
LOCK    := requirements-dev.lock
STAMP   := $(VENV)/.installed
ARGS    ?=

PACKAGES := schemas ingress meter enforcer deploy
# `make test T=path::name` runs a part; PYTEST_ARGS passes options on.
T           ?=
PYTEST_ARGS ?=
PYTEST      := $(BIN)/python -m pytest $(PYTEST_ARGS)
# Two processes, in the order that tests/conftest.py gives; a part is run in one.
PROCESSES   := $(if $(T),,-n 2 --no-loadscope-reorder)

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------------ environment

$(BIN)/uv: $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Tollway needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>/dev/null || echo missing)." \
			"Install it, or name another: make install PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: '$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 2; }
	@echo "==> making $(VENV) with $$($(PYTHON) -V)" >&2
	@$(BIN)/python -c "import pip" 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) | \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement /dev/stdin
	@touch $(BIN)/uv

$(STAMP): $(LOCK) pyproject.toml $(BIN)/uv
	@echo "==> installing the locked dependencies into $(VENV) (hashes checked)" >&2
	@$(UV) pip sync --python $(BIN)/python --require-hashes $(LOCK)
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

.PHONY: install
install: $(STAMP) ## Make .venv and install the locked dependencies into it (skipped while the lock is unchanged)
	@:

.PHONY: lock
lock: $(BIN)/uv ## Resolve the dependencies anew into the lock files (seven days of cooldown)
	@compile="$(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --exclude-newer '7 days'"; \
	echo "==> requirements.lock" >&2; \
	eval "$$compile --output-file requirements.lock"; \
	echo "==> $(LOCK)" >&2; \
	eval "$$compile --constraints requirements.lock --group test --group lint --group bench --group build \
		--output-file $(LOCK)"

.PHONY: up
up: install ## Start the whole stack here (options: make up ARGS="--ingress 2 --state DIR")
	@exec $(TOLLWAY) up $(ARGS)

# ------------------------------------------------------------------------------------------------------------ checks

.PHONY: format
format: install ## Format the sources and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lint
lint: install ## Lint: ruff and codespell
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/codespell

.PHONY: typecheck
typecheck: install ## Check the types of packages and tests (mypy --strict)
	@$(BIN)/mypy

.PHONY: imports
imports: install ## Check the dependency contracts between the packages (import-linter)
	@$(BIN)/lint-imports

.PHONY: check
check: lint typecheck imports docs-check test ## Everything that has to hold before a commit

# ------------------------------------------------------------------------------------------------------------- tests

.PHONY: test
test: install ## Run the tests that finish within minutes (real Kafka, real ClickHouse engine)
	@TOLLWAY_REQUIRE_REAL=$(if $(T),0,1) $(PYTEST) $(PROCESSES) -m "not slow and not bench" $(T)

.PHONY: test-all
test-all: install ## Run all tests: first what `make test` runs, in the same way, then the long ones
	@$(if $(T),$(PYTEST) -m "not bench" $(T),$(MAKE) test && $(MAKE) test-slow)

.PHONY: test-slow
test-slow: install ## Run the long tests alone
	@$(PYTEST) $(PROCESSES) -m "slow and not bench" $(T)

.PHONY: test-unit
test-unit: install ## Pure code of one package
	@$(PYTEST) tests/unit

.PHONY: test-property
test-property: install ## Laws, checked by hypothesis
	@$(PYTEST) tests/property

.PHONY: test-contract
test-contract: install ## Golden files and conformance suites
	@$(PYTEST) tests/contract

.PHONY: test-npm
test-npm: install ## Install the official npm SDKs (pinned, by integrity) and compare their usage with ours; skips without node
	@if command -v npm >/dev/null; then \
	  npm ci --prefix tests/contract/npm --ignore-scripts --no-audit --no-fund --loglevel=error \
	    || echo "test-npm: npm could not install the packages; their tests are skipped" >&2; \
	else echo "test-npm: there is no npm; its tests are skipped" >&2; fi
	@$(PYTEST) -rs tests/contract/test_npm_usage.py

.PHONY: test-stream
test-stream: install ## Stream processors and the exchange, driven in memory
	@$(PYTEST) tests/stream

.PHONY: test-integration
test-integration: install ## One real service each
	@$(PYTEST) -m "not slow" tests/integration

.PHONY: test-e2e
test-e2e: install ## The whole stack
	@$(PYTEST) -m "not slow" tests/e2e

.PHONY: test-bound
test-bound: install ## Check with bursts and faults that no limit leaks (options: make test-bound ARGS="--short --seed 7")
	@$(BIN)/python -m tests.bound $(ARGS)

.PHONY: test-faults
test-faults: install ## Kill, freeze and cut off everything, and compare all ledgers (RUNS=30 SEED=1; ARGS=--help)
	@$(BIN)/python -m tests.faults $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: bench
bench: install ## Measure; prints a table and writes .reports/bench.json
	@mkdir -p .reports
	@$(BIN)/python -m tests.bench $(ARGS)

# --------------------------------------------------------------------------------------------------- build and docs

.PHONY: build
build: install ## Build the sdist and, from it, the wheel into dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .

.PHONY: wheel-test
wheel-test: build ## Check what the wheel holds, install it into a fresh environment, run `tollway --help`
	@$(BIN)/python -m tests.wheel dist

.PHONY: docs
docs: install ## Generate the documents that come from code
	@$(BIN)/python -m deploy.reference

.PHONY: docs-check
docs-check: install ## Check that the generated documents are what the code says
	@$(BIN)/python -m deploy.reference --check

.PHONY: clean
clean: ## Remove what builds, checks and tests left behind (not .venv, not state)
	@rm -rf dist build .reports .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
