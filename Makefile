# `make test PY=python` runs any target in an environment of your own and skips the set-up of .venv.

# A command that exists may still not run (pyenv shims) or lack venv's ensurepip (Debian), so each one is tried.
SUPPORTED := import ensurepip, sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

ifndef PY
PY := .venv/bin/python
INSTALLED := .venv/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench methods figure1 table6 clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install the locked environment into .venv (the targets below do it when needed)

demo: $(INSTALLED) ## Run the demo
	$(PY) scripts/demo.py

test: $(INSTALLED) ## Run the fast tests
	$(PY) -m pytest

lint: $(INSTALLED) ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(INSTALLED) ## Run the benchmark
	$(PY) scripts/benchmark.py

methods: $(INSTALLED) ## Train every method on the embedded digits and make the table of them
	$(PY) scripts/methods.py

figure1: $(INSTALLED) ## Draw Figure 1, the noisy quadratic problem, at full size (a few minutes)
	$(PY) scripts/nqp.py task=figure1

TEXT ?= enwik8

table6: $(INSTALLED) ## Make Table 6, of language models, on enwik8 (needs a GPU), or with TEXT=pydocs the embedded one (a quarter of an hour)
	$(PY) scripts/table6.py $(TEXT)

# make data-NAME downloads, verifies and extracts a dataset into data/, or says what is there.
data-%: $(INSTALLED)
	$(PY) scripts/prepare_data.py $*

clean: ## Delete .venv, caches and build products; data and outputs stay
	rm -rf .venv .pytest_cache .ruff_cache build dist src/*.egg-info
	find configs scripts src tests -name __pycache__ -prune -exec rm -rf {} +

# The stamp comes last: an interrupted install leaves none and is taken up again.
.venv/.installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || \
		{ echo "Python >= 3.10 with venv is needed: name one with PYTHON=/path/to/python." >&2; exit 1; }
	@echo "installing about 6 GB into .venv, once (progress: tail -f .venv/install.log)"
	@"$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install -r requirements.lock > .venv/install.log
	@.venv/bin/python -m pip install --no-deps -e . >> .venv/install.log
	@touch $@
