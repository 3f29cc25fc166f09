# Two commands need nothing but make and Python >= 3.11 with venv:  make demo   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Extra arguments, e.g.  make test ARGS="-k uri -x"   make bench ARGS=--quick
ARGS ?=

.PHONY: help demo test test-heavy lint format bench bench-all bench-arrays bench-directories bench-growth bench-hdf5 bench-remote bench-private bench-peers clean

KACHERY := --kachery-python .venv-kachery/bin/python
ARRAYS := --peers-python .venv-peers/bin/python
DVC := --dvc .venv-dvc/bin/dvc

help:
	@echo "make demo         store, load, damage and kill: see what kacas does (about a minute)"
	@echo "make test         the tests, without the long ones"
	@echo "make test-heavy   the long ones"
	@echo "make lint         ruff, mypy --strict, the import linter, the house rules"
	@echo "make format       let ruff rewrite the code"
	@echo "make bench-peers  install the systems that the benchmarks compare with"
	@echo "make bench-all    every comparison: tables and plots (ARGS=--quick for a small run)"
	@echo "make bench        the figures of docs/benchmarks.md: arrays and documents (ARGS=--quick for a small run)"
	@echo "make bench-arrays         the same: arrays, their slices and memory, beside zarr and h5py, too"
	@echo "make bench-directories    the same: directories and edited files"
	@echo "make bench-hdf5           the same: HDF5 files that grow, and one dataset of a large one"
	@echo "make bench-remote         the same: a bucket, near and 50 ms away"
	@echo "make bench-private        the same: a private remote beside a plain one, and encrypted URIs"
	@echo "make bench-growth         the same: stores of ten thousand to ten million chunks"
	@echo "make clean        remove the virtual environments and all that was generated"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kacas needs Python >= 3.11; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) \
	  || { echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python demo/demo.py $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-heavy: $(STAMP)
	$(BIN)/python -m pytest -m heavy $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict kacas kacas_remote bench demo
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-peers:
	PYTHON=$(PYTHON) bash bench/peers.sh .venv-kachery .venv-peers .venv-dvc

bench-all: $(STAMP)
	$(BIN)/python -m bench.everything $(KACHERY) $(ARRAYS) $(DVC) $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench.engine $(KACHERY) $(ARGS)

bench-arrays: $(STAMP)
	$(BIN)/python -m bench.arrays $(KACHERY) $(ARRAYS) $(ARGS)

bench-directories: $(STAMP)
	$(BIN)/python -m bench.directories $(KACHERY) $(DVC) $(ARGS)

bench-hdf5: $(STAMP)
	$(BIN)/python -m bench.hdf5 $(ARGS)

bench-remote: $(STAMP)
	$(BIN)/python -m bench.remote $(ARRAYS) $(ARGS)

bench-private: $(STAMP)
	$(BIN)/python -m bench.private $(ARGS)

bench-growth: $(STAMP)
	$(BIN)/python -m bench.growth $(ARGS)

clean:
	rm -rf $(VENV) .venv-kachery .venv-peers .venv-dvc demo-out bench-out build dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
