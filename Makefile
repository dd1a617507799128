# PY=python runs a target in your own environment, without setting up .venv: `make test PY=python`.

# The first Python that can be used, or else the first that runs, which then says what it lacks. Some commands exist but don't run,
# such as shims of pyenv.
PYTHONS := python3.14 python3.13 python3.12 python3.11 python3
first = $(shell for p in $(PYTHONS); do $$p $(1) 2>/dev/null && echo $$p && break; done)
PYTHON ?= $(or $(call first,scripts/install.py --check),$(call first,--version >/dev/null),python3)

ifndef PY
PY := .venv/bin/python
INSTALLED := .venv/.installed
endif

TABLES := $(patsubst configs/table/%.yaml,%,$(wildcard configs/table/*.yaml))
comma := ,
on = $(filter-out 0,$(1))
quoted = '$(subst ','\'',$(1))'
TABLE_OPTIONS = $(if $(SCALE),--scale $(SCALE)) $(if $(SEEDS),--seeds $(subst $(comma), ,$(SEEDS))) \
	$(if $(DATA),--data $(subst $(comma),' ',$(call quoted,$(DATA)))) $(if $(IMAGES),--images $(IMAGES)) $(if $(DEVICE),--device $(DEVICE)) \
	$(if $(LAUNCHER),--launcher $(LAUNCHER)) $(if $(TO),--to $(call quoted,$(TO))) \
	$(if $(call on,$(DRY)),--dry) $(if $(call on,$(BUILD)),--build) $(if $(call on,$(MIXED)),--mixed) $(if $(WITH),--with $(WITH))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench bench-gpu figure1 tables table7 page docs clean
.PHONY: $(TABLES)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install the locked environment into .venv (the other targets do it when needed)

demo: $(INSTALLED) ## Run the demo
	$(PY) scripts/demo.py

test: $(INSTALLED) ## Run the fast tests
	$(PY) -m pytest -n auto --dist loadfile

lint: $(INSTALLED) ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(INSTALLED) ## Measure speed and memory on this machine (15 minutes), into results/benchmarks
	$(PY) scripts/benchmark.py

bench-gpu: $(INSTALLED) ## Measure the same on a GPU, with the paper's network
	$(PY) scripts/benchmark.py --device cuda

figure1: $(INSTALLED) ## Draw Figure 1, the noisy quadratic problem, at full size (a few minutes)
	$(PY) scripts/nqp.py task=figure1

# `make table3` makes Table 3; configs/table has all tables and figures. SCALE=digits makes it small, DRY=1 says what it would run.
# `python scripts/table.py --help` explains these and SEEDS, LAUNCHER, DATA, IMAGES, DEVICE, BUILD, MIXED, TO, WITH.
$(TABLES): $(INSTALLED)
	$(PY) scripts/table.py $@ $(TABLE_OPTIONS)

tables: $(INSTALLED) ## Make all tables and figures of the paper except table7 and figure1; options: SCALE=digits LAUNCHER=joblib DRY=1
	$(PY) scripts/table.py $(filter table% figure%,$(TABLES)) $(TABLE_OPTIONS)

table7: $(INSTALLED) ## Make Table 7, the shapes of the hypernetworks
	$(PY) scripts/table7.py

page: $(INSTALLED) ## Make results/README.md and results/index.html from all tables
	$(PY) scripts/page.py

# `make data-NAME` downloads, verifies and extracts a dataset into data/, and says what it contains.
data-%: $(INSTALLED)
	$(PY) scripts/prepare_data.py $*

docs: $(INSTALLED) ## Build the documentation into site/
	$(PY) -m mkdocs build --strict

clean: ## Delete .venv, caches and build products; keep data and outputs
	rm -rf .venv .pytest_cache .ruff_cache build dist site src/*.egg-info
	find configs examples scripts src tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml
	@exec "$(PYTHON)" scripts/install.py
