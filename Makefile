# Needs Python >= 3.11 and a package index. `make demo` and `make test` set up everything else in .venv.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-all lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gpt needs Python 3.11 or newer; say which with: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable '.[dev]'
	@touch $(INSTALLED)

demo: install
	PATH="$$PWD/$(BIN):$$PATH" bash examples/quickstart.sh

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

# As many tests at a time as there are cores, with a thread each: their networks are too small to gain from more.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
test test-all: export OMP_NUM_THREADS := 1

test: lint
	$(PYTEST)

# With the slow tests, and those against lm-evaluation-harness and the trackers.
test-all: lint
	$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable '.[dev,lm-eval,tensorboard,wandb,trackio]'
	$(PYTEST) -m ''

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
