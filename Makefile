# Every target makes and uses .venv in this checkout; `make quickstart` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BEAM := .venv-beam
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two processes, each with whole files of tests: what a file's fixtures make is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10
BEAM_TESTS := tests/tasks/test_tasks_cached.py tests/pipeline/test_shards_on_beam.py \
	tests/memory/test_pairs_on_beam.py
# The core suite compiles in a hurry (tests/conftest.py); these test the programs that users get.
OPTIMIZED := JAX_DISABLE_MOST_OPTIMIZATIONS=0

.PHONY: install quickstart test test-extras check fuzz docs lint clean

install: $(VENV)/installed

quickstart: $(VENV)/installed
	$(BIN)/p5jax quickstart --out runs/quickstart

test: $(VENV)/installed-test lint
	$(PYTEST)

# SeqIO, TFDS and Beam; parity with Hugging Face and, where it is installed, t5x.
test-extras: $(VENV)/installed-extras $(BEAM)/installed
	$(OPTIMIZED) $(PYTEST) -m "extras and not check"
	$(OPTIMIZED) $(BEAM)/bin/python -m pytest -m "beam and not check" $(BEAM_TESTS)

# Slow tests, of the core and of the extras.
check: $(VENV)/installed-extras $(BEAM)/installed
	$(OPTIMIZED) $(PYTEST) -m "check and not beam"
	$(OPTIMIZED) $(BEAM)/bin/python -m pytest -m "check and beam" $(BEAM_TESTS)

# Damaged inputs of every kind of file; exit status 1 when one is not refused in a line.
MINUTES ?= 10
fuzz: $(VENV)/installed-test
	$(BIN)/python tests/fuzz/campaign.py --minutes $(MINUTES)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors, unknown references included; nothing is fetched. Open docs/_build/html/index.html.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'p5jax needs Python >= 3.11; found ' + sys.version.split()[0] + '; set PYTHON=')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-test: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test,lint]'
	touch $@ $(VENV)/installed

$(VENV)/installed-extras: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test-extras,lint]'
	touch $@ $(VENV)/installed-test $(VENV)/installed

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
	rm -rf $(VENV) $(BEAM) .pytest_cache build *.egg-info
