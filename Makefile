# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format lock prove-image sbom clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with vLLM for CPUs and everything else (one to two minutes, once)

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh "$(PYTHON)" "$(VENV)"

demo: $(READY)  ## the main job, end to end (ARGS="--keep --model DIR|s3://bucket/prefix")
	@if [ "$$(id -u)" = 0 ]; then mkdir -p build; sh scripts/criu.sh build/criu >build/criu.log 2>&1 || true; fi
	@$(BIN)/pilotlight demo $(ARGS)

test: $(READY)  ## every test, real vLLM included (ARGS="-k name")
	@sh scripts/test.sh $(BIN)/python $(ARGS)

test-fast: $(READY)  ## the tests that start no vLLM
	@sh scripts/test.sh $(BIN)/python --without-vllm $(ARGS)

check: $(READY)  ## format, lint, types, import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(READY)  ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(READY)  ## write constraints.txt from what is installed now
	@sh scripts/lock.sh "$(VENV)"

prove-image:  ## build the images without a container engine and run them (root; ARGS="--targets controller")
	@sh scripts/prove_image.sh $(ARGS)

sbom: $(READY)  ## write each image's software bill of materials into build/sbom
	@sh scripts/sbom.sh "$(VENV)"

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
