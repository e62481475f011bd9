# make setup      the environment alone, in .venv (uv where it is installed, else venv and pip)
# make bench      benchmarks, training throughput, accuracy of a few recipes and the report: ARGS="--preset standard --device cuda"
# make gpu        all that a GPU must show, in 8 minutes: ARGS="--minutes 15"; called again, it resumes GPU_RUN
# make test       the tests that take seconds; make test-all: also those that take minutes (browser, torchrun, whole runs)
# make report     the reports of published runs, built anew: RUNS="results/*"
# make lint       ruff and mypy

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
# The command line; where packages are installed elsewhere: AUGMARK="python -m bench". Nothing is then installed.
AUGMARK ?= $(VENV)/bin/augmark
GPU_RUN ?= runs/gpu
RUNS ?= $(wildcard results/*--*)
# A pip constraints file, for a chosen set of versions: make setup VENV=.venv-old CONSTRAINT=.ci/floors.txt
CONSTRAINT ?=
PIP_INSTALL = $(if $(shell command -v uv),uv pip install --compile-bytecode --python $(VENV)/bin/python,$(VENV)/bin/python -m pip install --disable-pip-version-check) \
  $(if $(CONSTRAINT),--constraint $(CONSTRAINT))

.PHONY: setup test test-all bench gpu report lint clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

test-all: test
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

bench: $(VENV)/.installed
	$(VENV)/bin/augmark run $(ARGS)

# An environment that is there is taken as it is: GPU machines are often offline.
gpu: $(if $(shell command -v $(firstword $(AUGMARK))),,$(VENV)/.installed)
	$(AUGMARK) run --preset gpu --results $(GPU_RUN) $(if $(wildcard $(GPU_RUN)/plan.json),--resume) $(ARGS)

report: $(VENV)/.installed
	for run in $(RUNS); do $(VENV)/bin/augmark report $$run || exit; done

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "augmark needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	if command -v uv >/dev/null; then uv venv --python "$$(command -v $(PYTHON))" $(VENV); else $(PYTHON) -m venv $(VENV); fi

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --quiet --editable '.[dev]'
	@touch $@
