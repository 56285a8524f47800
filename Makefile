# `make demo` and `make test` set up everything they need. See CONTRIBUTING.md for the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# 3.11 has tflite-runtime wheels for every Pi; newer versions train with ai-edge-litert.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: help demo cluster chaos test lint coverage vectors programs check-programs protos check-protos crash engines fuzz \
  study other-python arm clean

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "headwater needs Python 3.11 or newer: apt-get install python3.11-venv, or PYTHON=..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV) 2>/dev/null; } \
	  || { echo "no venv module: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into $(VENV); this takes a minute the first time"
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(STAMP) ## Run the main job: 60 devices, 2 shards, the main chain, the audit
	@$(BIN)/headwater-sim demo $(ARGS)

cluster: $(STAMP) ## Run 4 gateways with CometBFT, 2 Mosquittos and 20 agents as processes
	@$(BIN)/headwater-sim cluster $(ARGS)

chaos: $(STAMP) ## Kill, freeze, cut off, fill, wipe and betray that network; root for all of it
	@$(BIN)/headwater-sim chaos $(ARGS)

test: $(STAMP) ## Lint, type-check and test
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(STAMP) ## Ruff, mypy strict, import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

coverage: $(STAMP) ## Line coverage of the protocol and the ledgers
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest tests/protocol tests/shard
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=95

vectors: $(STAMP) ## Write the committed test vectors anew; review the diff
	@$(BIN)/python -m tests.support.make_vectors_model
	@$(BIN)/python -m tests.support.make_vectors_protocol

WIRE := shard/headwater_shard/engine/cometbft/wire

protos: $(STAMP) ## Generate the classes of CometBFT's messages from their .proto files
	@$(BIN)/python -m grpc_tools.protoc -I shard --python_out=shard --pyi_out=shard $(WIRE)/*.proto

check-protos: $(STAMP) ## Check that the committed classes are what the .proto files generate
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT \
	  && $(BIN)/python -m grpc_tools.protoc -I shard --python_out=$$out --pyi_out=$$out $(WIRE)/*.proto \
	  && for file in $(WIRE)/*_pb2.py $(WIRE)/*_pb2.pyi; do \
	    cmp "$$file" "$$out/$${file#shard/}" || { echo "run make protos" >&2; exit 1; }; done

crash: $(STAMP) ## Kill gateways and nodes, cut a device's power 10,000 times, and more
	@$(BIN)/python -m pytest -m crash tests/crash tests/shard tests/agent $(ARGS)

engines: $(STAMP) ## Run the ledgers' tests once more, over CometBFT's protocol
	@HEADWATER_LEDGER_ENGINE=cometbft $(BIN)/python -m pytest -n $(WORKERS) tests/shard \
	  --ignore tests/shard/engine --ignore tests/shard/audit $(ARGS)

fuzz: $(STAMP) ## The long simulations: planted bugs, many seeds, thousands of connections
	@$(BIN)/python -m pytest -m crash tests/simulation $(ARGS)

$(VENV)/.study: $(STAMP) requirements-study.txt
	@$(BIN)/pip install -q --disable-pip-version-check -c requirements.txt -r requirements-study.txt
	@touch $@

study: $(VENV)/.study ## Install Ray, pyarrow and pandas, and test what needs them
	@HEADWATER_REQUIRE=study $(BIN)/python -m pytest -m study $(ARGS)

# 3.11 trains with tflite-runtime, newer versions with its successor.
OTHER_PYTHON ?= $(shell for p in python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[32]*/bin/python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done)

.venv-other/.installed: pyproject.toml requirements.txt
	@test -n "$(OTHER_PYTHON)" \
	  || { echo "no Python 3.12 or 3.13 here: make other-python OTHER_PYTHON=..." >&2; exit 2; }
	@$(OTHER_PYTHON) -m venv .venv-other
	@.venv-other/bin/pip install -q --disable-pip-version-check -r requirements.txt
	@.venv-other/bin/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

.PHONY: which-other-python
which-other-python:
	@echo $(OTHER_PYTHON)

other-python: $(STAMP) .venv-other/.installed ## Test on Python 3.12 or 3.13 too, and compare ledgers
	@.venv-other/bin/python -m pytest -n $(WORKERS) tests/protocol tests/models tests/agent tests/shard
	@HEADWATER_REQUIRE=pythons $(BIN)/python -m pytest -m pythons $(ARGS)

arm: $(STAMP) ## Follow docs/raspberry-pi.md in an emulated Pi: minutes, as root; .arm-root is its cache
	@$(BIN)/python -m tests.arm $(ARGS)

.venv-export/.installed: pyproject.toml
	@$(PYTHON) -m venv .venv-export
	@.venv-export/bin/pip install -q --disable-pip-version-check -e ".[export]" "tensorflow-cpu==2.21.0; platform_machine == 'x86_64'"
	@touch $@

programs: .venv-export/.installed ## Rebuild the shipped training programs with TensorFlow
	@.venv-export/bin/headwater-model build

check-programs: .venv-export/.installed ## Check that the committed programs are what their source builds
	@.venv-export/bin/headwater-model build --check

clean: ## Remove environments, caches and demo output
	rm -rf .venv .venv-export .venv-other .mypy_cache .ruff_cache .pytest_cache .hypothesis headwater-demo* cluster chaos
