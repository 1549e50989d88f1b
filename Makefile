# make demo        all of T1 on this machine, about ten minutes
# make study       T1's comparisons on the embedded task, a short version of all; about 40 minutes on two cores
# make test        the tests; make test-slow: the slow ones too
# make lint        style and types, of Python, shell, CSS and JavaScript
# make fmt         format the code
#
# PYTHON=python3.12   the interpreter that makes .venv
# ARGS="..."          further flags of make demo or make study, such as ARGS="--workdir=workdirs/second --config.seed=1"

PYTHON ?= python3
ARGS ?=
# Two processes, each file of tests in one of them: a program is compiled on one core.
SPLIT := -n 2 --dist=loadfile
# The slow tests run what the compiler makes by default; the others save its time (tests/support/several.py).
SHIPPED := --xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true --xla_cpu_parallel_codegen_split_count=32
BIN := .venv/bin
RUN := .venv/.requirements
DEV := .venv/.requirements-dev
# Biome checks and formats the CSS and JavaScript of the pages. npm comes with requirements-dev.txt.
BIOME := node_modules/@biomejs/biome/bin/biome

.PHONY: demo study test test-slow lint fmt
.DELETE_ON_ERROR:

demo: $(RUN)
	@$(BIN)/python -m t1jax.main $(ARGS)

study: $(RUN)
	@$(BIN)/python -m t1jax.study all --config=configs/study_short.py --seeds=2 --out=workdirs/study_short $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest -q $(SPLIT)

test-slow: $(DEV)
	@XLA_FLAGS="$(SHIPPED)" $(BIN)/python -m pytest -q $(SPLIT) -m "slow or not slow"

lint: $(DEV) $(BIOME)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/shellcheck launch/*.sh launch/*.sbatch
	@$(BIN)/node $(BIOME) check --error-on-warnings

fmt: $(DEV) $(BIOME)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/node $(BIOME) check --write

$(RUN): requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>/dev/null) || found="no Python"; \
	    echo "t1jax needs Python 3.11 or newer; $(PYTHON) is $$found. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; }; \
	  $(PYTHON) -m venv --clear .venv; }
	@echo "installing requirements.txt into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUN)
	@echo "installing requirements-dev.txt into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(BIOME): package-lock.json $(DEV)
	@echo "installing package-lock.json into node_modules"
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --loglevel=error --no-audit --no-fund
	@touch $@
