# Everything runs in .venv, which `make install` builds; nothing else is needed but Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install test quality style demo clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml blurcli/__init__.py
	$(PYTHON) -c "import sys; sys.exit('blurdiff needs Python 3.11 or newer: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]"
	touch $@

# One thread a test process: several of them, and their threads, would only wait for each other.
test: quality
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install
	rm -rf demo
	$(BIN)/blurdiff train --preset shapes-blur --run demo/run
	$(BIN)/blurdiff sample --run demo/run --n 64 --out demo/samples.png
	$(BIN)/blurdiff animate demo/reverse.gif --run demo/run
	$(BIN)/blurdiff animate demo/forward.gif --run demo/run --direction forward
	$(BIN)/blurdiff fid --run demo/run
	@echo "look at demo/samples.png, demo/reverse.gif and demo/forward.gif; the score is in demo/run/evaluations.jsonl"

clean:
	rm -rf $(VENV) demo build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache
	find blurcli tests -name __pycache__ -type d -prune -exec rm -rf {} +
