# Each target sets up what it needs: a virtual environment with Boxwood installed in it. Needs Python >= 3.11.
#   make demo          a detector trained, scored and drawn on generated pictures
#   make test          all tests
#   make check         format, lint, types and the fast tests
#   make test-py311    the fast tests on Python 3.11, in an environment of their own; so test-py312 and test-py313
#   make test-lowest   the fast tests on Python 3.11 with the oldest dependencies that pyproject.toml allows
#   make clean         remove what the others made
#
# make PYTHON=/path/to/python3.12 ... chooses the interpreter; PYTHON311, PYTHON312 and PYTHON313 that of the targets named after them.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PYTHON311 ?= python3.11
PYTHON312 ?= python3.12
PYTHON313 ?= python3.13
VENV := .venv
BIN := $(VENV)/bin
INSTALL := python -m pip install --disable-pip-version-check --editable
# One process a core, each of one thread, so that neither waits for the other.
pytest = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test check test-py311 test-py312 test-py313 test-lowest clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/boxwood demo --out demo

test: $(VENV)/.dev
	$(call pytest,$(VENV))

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(call pytest,$(VENV)) -m "not slow"

test-py311 test-py312 test-py313 test-lowest: test-%: .venv-%/.dev
	$(call pytest,.venv-$*) -m "not slow"

clean:
	rm -rf $(VENV) .venv-* demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What the demo needs, and what the tests need besides. The empty files say that it is installed.
$(VENV)/.demo: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/$(INSTALL) '.[dev]'
	touch $@

.venv-py3%/.dev: pyproject.toml
	$(PYTHON3$*) -m venv .venv-py3$*
	.venv-py3$*/bin/$(INSTALL) '.[dev]'
	touch $@

.venv-lowest/.dev: pyproject.toml .ci/lowest.py
	$(PYTHON311) -m venv .venv-lowest
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/$(INSTALL) '.[dev]' --constraint .venv-lowest/constraints.txt
	touch $@
