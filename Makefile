# Everything lives in .venv and runs/; nothing is installed anywhere else.
PYTHON ?= python3
JOBS ?= 2
QUICK ?= 1
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help setup train eval test check format bench docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with pinned versions (again only when the pins change)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null || { echo "ditcache-rl needs Python 3.11 or newer, but $(PYTHON) is:" \
	    "$$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; the first time this takes a few minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[train,dev,peers]'
	@touch $@

train: setup ## Train a policy; ARGS="envs/NAME.toml --help"
	@$(BIN)/python train.py $(ARGS)

eval: setup ## Evaluate a policy against its reference; ARGS="policies/NAME"
	@$(BIN)/python eval.py $(ARGS)

test: setup ## Run the tests that need neither GPU nor network; ARGS="tests/cache -x"
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	  $(ARGS)

check: setup ## Check format, lint, types, layers and spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell

format: setup ## Format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/start.html"

bench: setup ## Run every benchmark into runs/bench/; QUICK=0 for the full runs
	@mkdir -p runs/bench
	@for script in $(BENCHMARKS); do \
	  quick=; \
	  if [ "$(QUICK)" = 1 ] && $(BIN)/python $$script --help | grep -q -e --quick; then \
	    quick=--quick; fi; \
	  echo "== $$script $$quick"; \
	  $(BIN)/python $$script --json runs/bench/$$(basename $$script .py).json $$quick || exit 1; \
	done
