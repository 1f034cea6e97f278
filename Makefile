# make demo: everything, small. make test: what has to pass. make help: the rest.

PYTHON ?= python3
BIN := .venv/bin
# CPU=1 on a Linux without GPU: PyTorch's own CPU wheels, without 5 GB of CUDA (on macOS there is none anyway)
CPU ?=
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH = $$(grep -E '^(torch|torchvision)==' requirements.lock)
# two processes, each with a Ray, an S3 server and folders of its own; a file's tests stay together, short files come last
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos test-kernels gpu-check types unit proof dist docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/.installed  ## .venv with every package of requirements.lock, and foodseg itself; CPU=1: without CUDA

# The stamp is written last, so that an interrupted install is done again.
.venv/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: there is no $(PYTHON); name a Python 3.11 or 3.12: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "make: foodseg needs Python 3.10 to 3.12, found `$(PYTHON) --version 2>&1`; try make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] == (3, 10))' || { \
	  echo "make: requirements.lock is for Python 3.11 and 3.12; with 3.10 install unpinned:" >&2; \
	  echo "      $(PYTHON) -m venv .venv && $(BIN)/pip install -e '.[dev,mlflow]' && touch .venv/.installed" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(if $(CPU),$(BIN)/pip install --disable-pip-version-check --index-url $(CPU_INDEX) $(TORCH))
	$(if $(CPU),grep -vE '^(nvidia-|cuda-|triton=)' requirements.lock >.venv/cpu.lock)
	$(BIN)/pip install --disable-pip-version-check -r $(if $(CPU),.venv/cpu.lock,requirements.lock)
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## prepare, train, evaluate, predict on synthetic meals, offline; DATA=folder or s3://: on your own images
	$(BIN)/foodseg demo $(if $(DATA),--data '$(DATA)')
	@echo "(before the commands above: . $(BIN)/activate)"

test: install  ## lint, types, import rules, every test but chaos: ten minutes on two cores
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory --jobs=2 types unit
	$(PYTEST) tests/integration tests/e2e -m 'not chaos and not measurement'

chaos: install  ## what takes minutes: parts of a run are taken away, jobs, sweeps; and the tests of experiments/: 45 minutes at most
	$(BIN)/pytest tests -m 'chaos or measurement'

test-kernels: install  ## the unit tests as other processors compute: .ci/kernels
	.ci/kernels

gpu-check: install  ## JSON: does the GPU here compute what the CPU does, and how fast; eight minutes at most, no Ray
	$(BIN)/python -m foodseg.bench.gpu_check

# parts of `make test` that run in parallel
types:
	$(BIN)/mypy

unit:
	$(PYTEST) tests/unit -m 'not chaos and not measurement'

proof: install  ## the figures of experiments/*/results.json; finished ones are reused (python -m experiments --help)
	$(BIN)/python -m experiments

dist: install  ## dist/foodseg-VERSION-py3-none-any.whl, from the files as they are
	rm -rf build  # else the wheel would hold modules that are gone
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

docs: install  ## the documentation as a site: site/index.html, which can be read from the disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## caches, builds and the demo's output; keeps .venv and runs/
	rm -rf build dist site demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
