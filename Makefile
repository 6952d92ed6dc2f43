# Two commands: `make run` and `make test`. PYTHON picks the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process that crashes says where, at its exit too.
export PYTHONFAULTHANDLER = 1

.PHONY: run test test-slow test-real lint clean

run: $(STAMP)
	$(BIN)/aef run --config configs/sandbox.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --durations=10

test-real: $(STAMP)
	$(BIN)/python -m pytest -m real

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy aef_model pipelines cluster

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
