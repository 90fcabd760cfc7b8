# Both commands do all their own set-up; a second call finds it done.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one thread each: processes that share cores run the same tests in two thirds of the time; one more than there are
# cores, since some tests wait for processes of their own; bytecode is kept, or every one of these processes would
# compile the package anew
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=40
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all test-fast lint docs clean

demo: $(VENV)/.demo  ## compress a small model on handwritten digits, about five minutes
	$(BIN)/adasap demo

# where the processor has AVX-512, whole runs are made once more as one without it computes them
test: $(VENV)/.test  ## the tests: all of them where the processor has AVX-512
	$(PYTEST)
	@$(BIN)/python -W ignore -c 'import sys; from adasap import processor; sys.exit(not processor.has("avx512"))' || \
		{ echo "no AVX-512 here: the tests above ran as on most laptops"; exit 0; }; \
		ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) --long tests/test_pipeline.py tests/test_training_resume.py

test-all: $(VENV)/.test  ## all tests, the longest included, which `make test` leaves out where there is no AVX-512
	$(PYTEST) --long $(WRITE)

test-fast: $(VENV)/.test  ## the tests that take a second or two, without the browser
	$(PYTEST) -m "not slow and not browser"

lint: $(VENV)/.lint  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test  ## the documentation as a site, in site/
	$(BIN)/mkdocs build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "adasap needs Python 3.11 to 3.13; call make PYTHON=python3.12, for example" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.lint: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test,lint]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

clean:
	rm -rf $(VENV) demo-output tests-output site
