# `make help` lists the targets. Each sets up what it needs, in .venv, and only what changed.
VENV := .venv
OLDEST := .venv-oldest
PYTHON ?= $(shell command -v python3.11 || echo python3)
# A process for each core; more than a few only import JAX more often.
PYTEST := -m pytest -q --numprocesses=auto --maxprocesses=8 --dist=loadgroup
# The suite without the peers: tests/parity imports PyTorch.
SUITE := $(PYTEST) --ignore=tests/parity
# What a test says of any program holds without XLA's optimisations, and takes half as long to compile.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
# Of no JAX in particular, and left out where there is an old one: the bench, the documents, the
# messages of errors, and the last digits, which are those of the newest XLA.
ELSEWHERE := $(addprefix --ignore=tests/test_,$(addsuffix .py,accuracy bench certificate demo errors \
  extremes gallery house imbalance notebooks policy readme))
PASSED := $(VENV)/passed
# Without what is hidden: the certificate's cache holds copies of functions, which each run writes.
SOURCES = $(shell find bench jaxloss tests -name '.*' -prune -o -name '*.py' -print) $(wildcard notebooks/*.ipynb) README.md pyproject.toml

.PHONY: demo test test-exhaustive lint check parity accuracy bench bench-compiled compiled notebooks docs test-oldest format clean help
.NOTPARALLEL:

demo: $(VENV)/has-demo ## Train on handwritten digits, with and without class weights (DEMO_ARGS='--help')
	$(VENV)/bin/python -m jaxloss $(DEMO_ARGS)

test: $(VENV)/has-test ## Run the tests, without PyTorch
	@rm -f $(PASSED); touch $(VENV)/started
	$(VENV)/bin/python $(SUITE) -m "not exhaustive and optimized"; optimized=$$?; \
	  $(QUICKLY) $(VENV)/bin/python $(SUITE) -m "not exhaustive and not optimized" && exit $$optimized
	@mv $(VENV)/started $(PASSED)

test-exhaustive: $(VENV)/has-test ## Run the tests that `make test` leaves out: every mode, law and option
	$(VENV)/bin/python $(SUITE) -m exhaustive

lint: $(VENV)/has-test $(VENV)/has-check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint $(PASSED) ## Lint, check formatting and types; run the tests unless this very state has passed them

# As old as the start of the run that passed: a file that was edited meanwhile is newer.
$(PASSED): $(SOURCES) $(VENV)/has-test
	$(MAKE) test

parity: $(VENV)/has-test $(VENV)/has-peers ## Compare with PyTorch and Optax, values and gradients
	$(VENV)/bin/python $(PYTEST) tests/parity

accuracy: $(VENV)/has-bench ## Measure a part of the accuracy certificate, and compare with bench/accuracy/reached.json
	$(VENV)/bin/python -m bench.accuracy --ours --chunks 1 --dtypes float32 bfloat16 --check

bench: $(VENV)/has-bench $(VENV)/has-peers ## Time every loss beside Optax, PyTorch and the floor (BENCH_ARGS='--help')
	$(VENV)/bin/python -m bench $(BENCH_ARGS)

notebooks: $(VENV)/has-notebooks ## Execute the notebooks (NOTEBOOKS='FILE ...'; WRITE=1 to keep what they show)
	$(VENV)/bin/python notebooks/run.py $(if $(WRITE),--write) $(NOTEBOOKS)

docs: $(VENV)/has-docs ## Build the documentation into site/, from README, docstrings and notebooks
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "built: open site/index.html"

bench-compiled: $(VENV)/has-bench $(VENV)/compiler-h100 $(VENV)/compiler-v5e ## Compile every loss for an H100 and a TPU v5e, and read what it moves (COMPILED_ARGS='--help')
	PYTHONPATH=$(VENV)/compiler-h100:$(VENV)/compiler-v5e $(VENV)/bin/python -m bench.compiled $(COMPILED_ARGS)

compiled: $(VENV)/has-bench $(VENV)/compiler-h100 ## The same of ours for an H100, compared with bench/compiled/reached.json
	PYTHONPATH=$(VENV)/compiler-h100 $(VENV)/bin/python -m bench.compiled --target h100 --ours --check

test-oldest: $(OLDEST)/has-test ## Run the tests of what JAX can break on the oldest that pyproject.toml admits
	$(OLDEST)/bin/python $(SUITE) -m "not exhaustive" $(ELSEWHERE)

format: $(VENV)/has-check ## Format the code, and mend what ruff can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove the virtual environments and what the tools left
	rm -rf $(VENV) $(OLDEST) .hypothesis .mypy_cache .pytest_cache .ruff_cache jaxloss-demo site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

# One stamp for each extra and environment.
$(VENV)/has-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[$*]' -c constraints.txt
	@touch $@

$(OLDEST)/has-%: pyproject.toml constraints-oldest.txt | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pip install -q -e '.[$*]' -c constraints-oldest.txt
	@touch $@

# Compilers for machines that need not be there. They are beside the environment and not in it, where
# JAX would complain of the missing device at every start.
COMPILER_h100 := jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12
COMPILER_v5e := libtpu
$(VENV)/compiler-%: constraints.txt | $(VENV)/bin/python
	rm -rf $@
	$(VENV)/bin/python -m pip install -q --no-deps --target $@ $(COMPILER_$*) -c constraints.txt || \
	  { rm -rf $@; exit 1; }
	@touch $@

# A half-made environment is removed: the next run would take it for a whole one.
$(VENV)/bin/python $(OLDEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxloss needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }
