# SPDX-License-Identifier: Apache-2.0
# What developers run; users need ./demo.sh and ./test.sh only.
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
BIN := $(dir $(PYTHON))
CXX_FILES := $(shell find csrc hls_export/engine tests/cpp -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
OUT ?= build

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(BIN)ruff:
	@echo "the developers' tools are not installed: run ./test.sh once" >&2; exit 1

build: ## the compiled parts, in place
	PATH="$(abspath $(BIN)):$$PATH" $(PYTHON) setup.py -q build_ext --inplace

test: ## all tests; ARGS go to pytest
	./test.sh $(ARGS)

lint: $(BIN)ruff ## ruff, clang-format and mypy, without changes
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)mypy

format: $(BIN)ruff ## ruff and clang-format, in place
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i $(CXX_FILES)

layers: $(BIN)ruff ## 100,000 random layers on every path of the engine and in numpy; ARGS: --layers, --seed, --jobs
	PYTHONPATH=tests:. OMP_NUM_THREADS=1 $(PYTHON) -m support.random_layers $(ARGS)

bench: ## the benchmarks, their tables and figures; ARGS go to python -m benchmarks
	$(PYTHON) -m benchmarks $(ARGS)
	$(PYTHON) -m benchmarks.make_table
	$(PYTHON) -m benchmarks.figures

csim: ## the exported accelerator of the embedded network, compiled with g++ and run on its golden vectors
	$(BIN)yolo-hw demo --images 1 --out $(OUT)/csim
	$(MAKE) -C $(OUT)/csim/bundle/hls csim OUT=$(abspath $(OUT))/csim_build

docs: $(BIN)ruff ## what the documents say: links, command lines, descriptor offsets, measured tables
	$(PYTHON) -m benchmarks.make_table
	$(PYTHON) -m pytest -q tests/test_docs.py

clean: ## everything that is built, not the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f yolo_hw/*.so
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: help build test lint format layers bench csim docs clean
