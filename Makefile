# Every target builds .venv first when it is missing or older than the lock file. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: setup run demo test soak lint bench lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $(READY)

run: setup
	$(PY) -m collector_trio run

demo: setup
	$(PY) -m collector_trio demo

test: setup
	$(PY) -m pytest -n 2 --dist loadfile -m "not soak"

soak: setup
	$(PY) -m pytest -m soak

# What it compares with is installed first, of pip's choice: without it the rows say so, and the rest is measured.
bench: setup
	-$(PY) -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
	$(PY) benchmarks/bench.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

lock: setup
	$(PY) -m pip install --disable-pip-version-check --quiet pip-tools
	$(PY) -m piptools compile --quiet --upgrade --generate-hashes --extra dev --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-header --no-annotate -o requirements.lock pyproject.toml

clean:
	rm -rf .venv demo-data build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
