# Every target makes and uses .venv in this checkout; `make quickstart` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test check lint install clean

quickstart: $(VENV)/installed
	$(BIN)/p5jax quickstart --out runs/quickstart

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest

check: $(VENV)/installed-test
	$(BIN)/python -m pytest -m check

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'p5jax needs Python >= 3.11; found ' + sys.version.split()[0] + '; set PYTHON=')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-test: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test,lint]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info
