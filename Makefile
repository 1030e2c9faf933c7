# Everything runs in .venv, which is made on first use. No step asks a question.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench protos clean

demo: .venv/installed  ## generate a regional economy and run a whole federation on it, into build/demo
	rm -rf build/demo
	$(BIN)/fedshare-local economy --out build/demo/data
	FEDSHARE_DATA=$(CURDIR)/build/demo/data $(BIN)/fedshare-local run deploy/examples/economy.yaml --out build/demo --check

test: .venv/installed-dev  ## unit, property and system tests
	$(BIN)/python -m pytest

lint: .venv/installed-dev  ## style, types, who may import whom, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/protoc --check

bench: .venv/installed-dev  ## speed against plaintext and Paillier, into build/bench.json
	$(BIN)/python tests/benchmarks/bench.py --out build/bench.json

protos: .venv/installed-dev  ## regenerate core/fedshare/wire from protos/
	scripts/protoc

clean:
	rm -rf .venv build

# torch first and exact: the release that is known to have a CPU build for every supported Python.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[local]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[local,dev]"
	touch $@
