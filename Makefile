# On a fresh machine, `make demo` and `make test` do all the set-up: a virtual environment in .venv
# with the versions of .ci/constraints.txt. PYTHON chooses the interpreter, DEMO and TEST pass
# options on: make demo DEMO="--three", make test TEST="-k loss". `make integrations` installs the
# trainers and runs the tests that need one. `make bench` runs the quick suite of
# the comparison.

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint .ci/constraints.txt

.PHONY: demo test integrations lint bench clean

demo: $(VENV)/.demo
	$(VENV)/bin/python examples/demo.py $(DEMO)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 $(TEST)

integrations: $(VENV)/.integrations
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 -m extra $(TEST)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks fetch digits openmoji
	$(VENV)/bin/python -m benchmarks run --suite quick

clean:
	rm -rf $(VENV) runs build dist

$(VENV)/.python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'midas_aug needs Python 3.10')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.integrations $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(VENV)/.python pyproject.toml .ci/constraints.txt
	@echo "Installing midas_aug[$*] into $(VENV) (PyTorch is large; a minute or a few)"
	$(PIP) --editable ".[$*]"
	touch $@
