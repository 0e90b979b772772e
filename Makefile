# Every target sets up .venv by itself, from whatever package index your pip is set to.
#   make demo      the whole path on real fields, with the bundled model; the last line is the report
#   make test      lint, types, import contracts, tests that are not slow
#   make test-all  the same with the slow tests
#   make bench     the timings the docs quote, beside other programs
#   make lint      ruff, mypy, import contracts
#   make clean     remove the environment and the caches

PYTHON  ?= python3
BIN     := .venv/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
SETUP   := pyproject.toml constraints.txt
DEV     := .venv/dev.stamp
DEMO    := .venv/demo.stamp
# The programs we are measured against bring half a hundred packages, and TIAToolbox wants older versions than the
# tested ones: they stay out of the other environment.
PEERS   := .venv-bench/peers.stamp

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all bench lint clean

help:
	@sed -n 's/^#   make/make/p' Makefile

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wsi-detect needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"

$(DEMO): $(SETUP) | .venv/bin/python
	$(PIP) install --quiet -c constraints.txt -e ".[detect,eval]"
	@touch $@

$(DEV): $(SETUP) | .venv/bin/python
	$(PIP) install --quiet -c constraints.txt -e ".[detect,train,eval,dicom,ray,timm]" --group dev
	@touch $@ $(DEMO)

demo: $(DEMO)
	@$(BIN)/wsi-detect demo

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict wsi_detect
	$(BIN)/lint-imports

# Two processes halve the wait on two cores; each keeps to one thread, or they would stand in each other's way.
TESTS   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: lint
	$(TESTS) -m "not slow"

test-all: lint
	$(TESTS)

$(PEERS): $(SETUP) | .venv/bin/python
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet -e ".[detect,train,eval]" --group bench
	@touch $@

bench: $(PEERS)
	@mkdir -p build/bench
	@for name in stitching tiling store loader importers evaluation losses detectors; do \
	  echo "== $$name"; \
	  .venv-bench/bin/python scripts/bench_$$name.py --json build/bench/$$name.json || exit 1; \
	done

clean:
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
