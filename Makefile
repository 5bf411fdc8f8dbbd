# Everything is installed into .venv; nothing outside this folder is changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Releases of one time; what pyproject.toml allows at least.
OLDEST := torch==2.9.0 torchvision==0.24.0
OLDEST_VENV := .venv-oldest

.PHONY: help setup demo test test-oldest fuzz clean

help:
	@echo "make setup        create $(VENV) with graphprune and all that its tests and demo need"
	@echo "make demo         setup, then prune, train, export and time a network on real digits"
	@echo "make test         setup, then ruff, mypy and pytest"
	@echo "make test-oldest  pytest with the oldest torch that graphprune allows, in $(OLDEST_VENV)"
	@echo "make fuzz         setup, then 10,000 random programs (about an hour)"
	@echo "make clean        remove caches and build results; $(VENV) stays"

setup: $(READY)

# The stamp is written last, so that an interrupted set-up is done again.
# One pip call, so that torch and torchvision are resolved together.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --editable '.[test,demo]'
	@touch $@

demo: setup
	$(BIN)/graphprune demo

# Two workers with one thread each: more threads than cores make torch slower, and one thread gives the same sums each time.
test: export OMP_NUM_THREADS := 1
test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2

# Warnings are no errors here: this torch warns of its own parts, which later ones replaced.
test-oldest: export OMP_NUM_THREADS := 1
test-oldest: $(OLDEST_VENV)/.ready
	$(OLDEST_VENV)/bin/pytest -n 2 -W default

$(OLDEST_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --upgrade pip
	$(OLDEST_VENV)/bin/python -m pip install --editable '.[test,demo]' $(OLDEST)
	@touch $@

fuzz: export OMP_NUM_THREADS := 1
fuzz: setup
	$(BIN)/python -m benchmarks.fuzz --programs 10000 --jobs 2

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find graphprune passes tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
