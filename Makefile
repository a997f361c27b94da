# On a fresh machine every target does its own set-up: a virtual environment in .venv with the
# versions of .ci/constraints.txt. PYTHON chooses the interpreter; DEMO and TEST pass options on:
# make demo DEMO="--three", make test TEST="-k loss". CONSTRAINTS chooses other versions:
# .ci/oldest.txt, or .ci/newest.txt, which leaves them to pip.
#
#   demo          train on pictures and meanings of characters, print a table, draw a figure
#   smoke         a verdict in a minute or two: the tests of the core that start no ranks or
#                 workers, train nothing and compile nothing, with fewer random examples
#   test          all tests but those that need a trainer of somebody else's
#   integrations  those tests, with the trainers installed
#   coverage      the tests, and which lines of the package none of them reaches
#   lint          style and types
#   docs          the site, in build/site; every page of it from the repository's own
#   bench         the quick suite of the comparison
#   dist          sdist and wheel in dist/, and a look at both
#   published     the newest release, as the index has it

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint $(CONSTRAINTS)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
MANY := -n auto --maxprocesses 8
NOT_SMOKE := benchmarks diagnostics integrations test_distributed.py test_docs.py \
	test_examples.py test_workers.py

.PHONY: demo smoke test integrations coverage lint docs bench dist published clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py $(DEMO)

smoke: $(VENV)/.test
	$(PYTEST) -n 2 -q -m "not extra" --hypothesis-profile smoke \
		$(addprefix --ignore tests/,$(NOT_SMOKE)) -k "not compile and not ranks and not worker" $(TEST)

test: $(VENV)/.test
	@echo "All tests: ten minutes or so on two cores (make smoke: a verdict in one or two)"
	$(PYTEST) $(MANY) $(TEST)

integrations: $(VENV)/.integrations
	@echo "The tests of the trainers: one to three minutes on two cores"
	$(PYTEST) $(MANY) -m extra $(TEST)

coverage: $(VENV)/.test
	$(PYTEST) $(MANY) --cov=midas_aug --cov-report=term --durations=10 $(TEST)

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Built build/site. To read it: $(BIN)/python -m http.server --directory build/site"

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks fetch digits openmoji
	$(BIN)/python -m benchmarks run --suite quick

dist: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python .ci/check_dist.py dist

published: $(VENV)/.python
	$(BIN)/python -m pip install --quiet --upgrade midas-aug
	cd $(VENV) && $(abspath $(BIN))/python $(abspath .ci/check_wheel.py)

clean:
	rm -rf $(VENV) runs build dist

$(VENV)/.python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'midas_aug needs Python 3.10')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.integrations $(VENV)/.lint $(VENV)/.docs $(VENV)/.bench $(VENV)/.release: $(VENV)/.%: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	@echo "Installing midas_aug[$*] into $(VENV) (PyTorch is large; a minute or a few)"
	$(PIP) --editable ".[$*]"
	touch $@
