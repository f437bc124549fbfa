# Two commands matter: `make run` and `make test`. `make help` lists the rest.
#
# Needs Python 3.11, 3.12 or 3.13, make and a network with PyPI. Everything else, PostgreSQL and Redis
# included, is installed from requirements.txt into .venv; the stamp files remember that it was.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python

# The first Python in range: python3 itself, or else one with its version in its name. It is run, not
# only found: version managers leave names on the path behind which there is nothing.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
ifeq ($(PYTHON),)
PYTHON := python3
endif
endif

.PHONY: help run test lint types imports bandit check audit sbom lock bench faults fuzz scaling secrets clean python

help: ## List the targets
	@echo "make <target>    PYTHON=... picks the Python that .venv is made from"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.run ## Run the whole bank: database, API, workers, scheduler, dashboard
	@exec $(PY) -m bank run

test: $(VENV)/.dev ## Run all tests on an embedded PostgreSQL and Redis (PYTEST="-n 0 -k name" narrows)
	@$(PY) -m pytest $(PYTEST)

lint: $(VENV)/.dev ## Check style and common mistakes (ruff)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

types: $(VENV)/.dev ## Check types (mypy; strict in bank/ledger)
	@$(VENV)/bin/mypy

imports: $(VENV)/.dev ## Check which module may import which (import-linter)
	@$(VENV)/bin/lint-imports

bandit: $(VENV)/.dev ## Look for unsafe code in bank/, from medium severity on (bandit)
	@$(VENV)/bin/bandit --quiet --configfile pyproject.toml --severity-level medium --recursive bank

check: lint types imports bandit ## lint, types, imports and bandit

audit: bandit ## Look for unsafe code, and for known holes in what is installed; says so where nobody can be asked
	@$(PY) .ci/audit.py requirements.txt

sbom: $(VENV)/.dev ## Write what the bank is made of to build/sbom.json (CycloneDX)
	@mkdir -p build
	@$(VENV)/bin/cyclonedx-py requirements --mc-type application --output-reproducible --output-file build/sbom.json requirements.txt
	@echo "build/sbom.json"

# No Windows, and no pip, which is the one that comes with Python. What is pinned already stays, unless it is asked to move.
LOCK := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-package colorama --no-emit-package pip --custom-compile-command "make lock"

lock: $(VENV)/.dev ## Pin what the requirements*.in ask for, with its hashes (ARGS="--upgrade-package jinja2")
	@$(LOCK) $(ARGS) --output-file requirements.txt requirements.in
	@$(LOCK) $(ARGS) --output-file requirements-dev.txt requirements-dev.in

bench: $(VENV)/.dev ## Measure this machine: accept, read and posting rates, as JSON lines
	@$(PY) -m tests.bench

faults: $(VENV)/.dev ## Put faults on a running bank, one after the other (ARGS="--only Redis", --list, --planted)
	@$(PY) -m tests.faultsuite $(ARGS)

fuzz: $(VENV)/.dev ## Send 100,000 made-up requests to a bank of its own (ARGS="--cases 1000 --seed 7")
	@$(PY) -m tests.security $(ARGS)

scaling: $(VENV)/.dev ## Measure how the cost grows with workers, lanes and entries
	@$(PY) -m tests.bench.scaling

secrets: ## Make what the containers need: a file for each secret, and .env; what is there stays
	@docker/secrets.sh

clean: ## Remove .venv and caches; the bank's data stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find bank tests migrations -name __pycache__ -prune -exec rm -rf {} +

# Says in one line what is wrong with the Python at hand.
python:
	@command -v $(PYTHON) >/dev/null || { echo "bank needs Python 3.11, 3.12 or 3.13, and there is no $(PYTHON). make PYTHON=/path/to/python3 names one." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v or sys.exit("bank needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. make PYTHON=/path/to/python3 names another." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment: ensurepip is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore
# A package as requirements.txt pins it: its line, and those of its hashes, up to the first without a backslash.
pinned = sed -n '/^$(1)==/,/[^\\]$$/p' requirements.txt

# --clear: what a broken-off or older attempt left behind must not be built upon.
# crontab alone comes as source: pip would fetch what builds it by itself, the newest there is and without a hash.
$(VENV)/.run: requirements.txt setup.cfg pyproject.toml
	@$(MAKE) python
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call pinned,setuptools) | $(PIP) -r /dev/stdin
	@$(call pinned,crontab) | $(PIP) --no-build-isolation -r /dev/stdin
	@$(PIP) -r requirements.txt
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@$(PIP) -r requirements-dev.txt
	@touch $@
