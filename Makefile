# Four jobs, and each sets up what it needs first: demo, test, lint, bench.
# The set-up is a virtual environment in .venv, brought up to date when pyproject.toml or constraints.txt change.

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP_INSTALL := $(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test lint bench

help:
	@echo "make demo    train a small classifier and a part segmenter on the CPU, evaluate them, predict one shape"
	@echo "make test    lint, types and tests"
	@echo "make lint    lint and types"
	@echo "make bench   measure models, and the operations against their plain twins (DEVICE=cuda: on a GPU)"
	@echo "Another Python: make PYTHON=python3.12 demo"

demo: $(VENV)/.core
	rm -rf runs/demo runs/demo_parts
	$(RUN) tools/make_shapes.py --root data
	$(RUN) tools/train_cls.py --cfg configs/shapes_quickstart.yaml --set run.dir=runs/demo
	$(RUN) tools/evaluate.py runs/demo/last
	$(RUN) tools/seg_shapenetpart.py --cfg configs/shapes_partseg.yaml --set run.dir=runs/demo_parts
	$(RUN) tools/seg_shapenetpart.py --checkpoint runs/demo_parts/last
	set -- data/shapes/meshes/test/*/*.off && $(RUN) tools/predict.py "$$1" --checkpoint runs/demo/last

test: lint
	$(RUN) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench: DEVICE ?= cpu
bench: $(VENV)/.dev
	$(RUN) tools/benchmark.py --device $(DEVICE) \
	  --out results/benchmark_$(DEVICE).json --markdown results/benchmark_$(DEVICE).md
	$(RUN) -m benchmarks.ops --device $(DEVICE) --out results/ops.md
	$(RUN) -m benchmarks.allocator --out results/cpu_training.md

# What `make demo` needs. PyTorch comes first and alone, so that no later requirement chooses its version.
$(VENV)/.core: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) was not found; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: bixt3d needs Python 3.10 or newer, and this is $$($(PYTHON) --version 2>&1);" \
	       "name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make a virtual environment (its ensurepip or venv module is missing);" \
	       "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) --quiet "pip>=22"
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --quiet --editable ".[plots]"
	@touch $@

# What the tests need on top.
$(VENV)/.dev: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[las,plots,logs,viewer,web,export,triton,dev]"
	@touch $@
