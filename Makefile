PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
INSTALL := pip install --quiet --disable-pip-version-check
PIP := $(BIN)/$(INSTALL)
RACES := .venv-bench
RACING := $(RACES)/.ready
SHAPES := --jaxtyping-packages=gmlib,beartype.beartype
REPLAY := --nbval-current-env --nbval-cell-timeout 300
TRAINED := book/08-variational-autoencoders.ipynb  # replayed again as on an older processor
PORT ?= 8000
export PYTHONPATH := $(CURDIR)/book/_ext

.DEFAULT_GOAL := help
.PHONY: help book notebooks test test-fast smoke replay visit sabotage lint bench serve clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing the locked environment into .venv (once)"
	@$(PIP) "$$(grep '^torch==' requirements.lock)"
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps -e .
	@touch $@

book: $(READY)  ## execute every chapter and build the site
	@$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet >/dev/null
	@echo "The book: $(CURDIR)/_build/html/index.html"

notebooks: book  ## write the .ipynb beside each chapter
	@$(BIN)/python -m gmbook.notebooks

test-fast: $(READY)  ## the tests of the package and of the tools, without chapters
	@$(BIN)/pytest -q $(SHAPES) --cov --cov-report= tests --ignore tests/bad_input --ignore tests/colab --ignore tests/site
	@$(BIN)/pytest -q --cov --cov-append --cov-fail-under=95 tests/bad_input

test: test-fast replay visit sabotage  ## all tests; `make --jobs 2 test` takes half the time

replay: book  ## run all chapters in full: each prints what its notebook says, one also as on an older processor
	@$(BIN)/python -m gmbook.notebooks --check
	@$(BIN)/pytest -q $(REPLAY) --nbval book
	@ATEN_CPU_CAPABILITY=default $(BIN)/pytest -q $(REPLAY) --nbval $(TRAINED)

visit: book  ## open the site in a browser, and run the notebooks in short, as Colab does
	@$(BIN)/pytest -q tests/colab tests/site

smoke: $(READY)  ## run all chapters in short: little training, every equation's check; `visit` does so too
	@GMLIB_SMOKE=1 $(BIN)/pytest -q $(REPLAY) --nbval-lax book

sabotage: $(READY)  ## break the chapters and the package in one place after the other: something must go red
	@$(BIN)/python -m tests.saboteur

lint: $(READY)  ## ruff and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports

$(RACING): bench/requirements.lock requirements.lock pyproject.toml
	@test -x $(RACES)/bin/pip || $(PYTHON) -m venv $(RACES)
	@echo "Installing the peers into $(RACES) (once)"
	@$(RACES)/bin/$(INSTALL) "$$(grep '^torch==' requirements.lock)" setuptools
	@$(RACES)/bin/$(INSTALL) --no-deps -r bench/requirements.lock
	@$(RACES)/bin/$(INSTALL) --no-deps -e .
	@touch $@

bench: $(RACING)  ## race against other packages, on one thread; writes book/results/races.json
	@$(RACES)/bin/python -m bench

serve: book  ## read the book at http://localhost:8000
	@$(BIN)/python -m http.server --directory _build/html $(PORT)

clean:  ## remove the site and the executed chapters, keep the environment
	rm -rf _build .jupyter_cache
