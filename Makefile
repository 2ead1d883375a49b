# Every target starts from nothing: the environment is made on first use, and made again when what it holds changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check -c constraints.txt
# A process for each core does more than a thread for each core in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal
TORCH := $(shell grep '^torch==' constraints.txt)
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint coverage docs bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## fit four models to real data, print a table, write a report
	$(BIN)/kernelfield demo

test: lint  ## lint, types and the test suite, but for its slow tests
	$(PYTEST) -m "not slow"

test-all: lint  ## lint, types and the whole test suite
	$(PYTEST)

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(INSTALLED)  ## which lines no test reaches
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage report

docs: $(DOCS_INSTALLED)  ## the manual as HTML in build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(INSTALLED)  ## measure beside other packages, for an hour or so; on real data too if KERNELFIELD_DATA names them
	$(BIN)/python benchmarks/exact_gp.py
	$(BIN)/python benchmarks/restarts.py
	$(BIN)/python benchmarks/infinite_width.py
	$(BIN)/python benchmarks/suggestions.py
	[ -z "$$KERNELFIELD_DATA" ] || $(BIN)/python benchmarks/uci.py
	[ -z "$$KERNELFIELD_DATA" ] || $(BIN)/python benchmarks/surrogates.py

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist kernelfield-demo *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, so that no other package chooses its build.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e '.[all,test]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP) -e '.[docs]'
	touch $@
