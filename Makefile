# Each job sets up what it needs first.
# The set-up is a virtual environment in .venv, brought up to date when pyproject.toml or constraints.txt change.

PYTHON ?= python3
PYTEST_ARGS ?=
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
BIXT3D := $(VENV)/bin/bixt3d
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile  # one thread a worker: more only wait
PIP_INSTALL := $(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo check test lint docs bench

help:
	@echo "make demo    train a small classifier and a part segmenter on the CPU, evaluate them, predict one shape"
	@echo "make check   lint, types, and the tests that need no training and no window: under 3 minutes on two cores"
	@echo "make test    lint, types and all tests"
	@echo "make lint    lint, format and types"
	@echo "make docs    build the site in site/: open site/index.html"
	@echo "make bench   measure models, and the operations against their plain twins (DEVICE=cuda: on a GPU)"
	@echo "Another Python: make PYTHON=python3.12 demo"

demo: $(VENV)/.core
	$(BIXT3D) data make --root data
	$(call train,configs/shapes_quickstart.yaml,runs/demo)
	$(BIXT3D) evaluate runs/demo/last
	$(call train,configs/shapes_partseg.yaml,runs/demo_parts)
	$(BIXT3D) evaluate runs/demo_parts/last --picture 10
	set -- data/shapes/meshes/test/*/*.off && $(BIXT3D) predict runs/demo/last "$$1"

# Train into a folder: go on with a run that Ctrl-C stopped, and keep one that is finished.
train = @if [ -f $(2)/result.json ]; then echo "$(2) is trained; to train it again: rm -r $(2)"; \
  else set -x; $(BIXT3D) train --cfg $(1) $$([ -f $(2)/resume.pt ] && echo --resume) --set run.dir=$(2); fi

check: lint
	$(PYTEST) -m "not slow and not training" $(PYTEST_ARGS)

test: lint
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/.docs
	$(VENV)/bin/zensical build --config-file mkdocs.yml --clean

bench: DEVICE ?= cpu
bench: $(VENV)/.dev
	$(BIXT3D) benchmark --device $(DEVICE) \
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

$(VENV)/.docs: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[docs]"
	@touch $@

# What the tests need on top.
$(VENV)/.dev: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[las,images,plots,logs,viewer,web,export,triton,docs,dev]"
	@touch $@
