# Every target makes and uses .venv in this checkout; `make quickstart` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BEAM := .venv-beam
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test check lint docs install clean

quickstart: $(VENV)/installed
	$(BIN)/p5jax quickstart --out runs/quickstart

test: $(VENV)/installed-test $(BEAM)/installed lint
	$(BIN)/python -m pytest
	$(BEAM)/bin/python -m pytest -m "beam and not check" tests/test_tasks_cached.py

check: $(VENV)/installed-test $(BEAM)/installed
	$(BIN)/python -m pytest -m "check and not beam"
	$(BEAM)/bin/python -m pytest -m "check and beam" tests/test_tasks_cached.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors, unknown references included; nothing is fetched. Open docs/_build/html/index.html.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html

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

$(VENV)/installed-docs: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	touch $@ $(VENV)/installed

# Beam and the newest sentencepiece need different versions of protobuf.
$(BEAM)/installed: setup.cfg constraints.txt constraints-beam.txt
	$(PYTHON) -m venv $(BEAM)
	awk -F== 'NR == FNR { beam[$$1] } NR == FNR || !($$1 in beam)' constraints-beam.txt constraints.txt > $(BEAM)/constraints.txt
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(BEAM)/constraints.txt \
		--editable '.[seqio,beam]' pytest
	touch $@

clean:
	rm -rf $(VENV) $(BEAM) build *.egg-info
