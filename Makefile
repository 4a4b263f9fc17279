# Everything a developer runs. `make help` lists the targets.
#
# The virtual environment is made once (.venv/.setup is its stamp); the extension is rebuilt when a Rust source is newer
# than python/dither/_core.abi3.so. Versions come from requirements.lock; `make setup CONSTRAINTS=` ignores it.

PYTHON      ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
                 $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CONSTRAINTS ?= -c requirements.lock
CONFIG      ?= examples/quickstart.toml
OUT         ?= runs/quickstart
PYTEST_ARGS ?=

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup
MODULE := python/dither/_core.abi3.so
RUST   := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)

export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup build demo test test-rust test-python test-slow lint lint-rust lint-python format bench bench-numbers bench-fits bench-scores bench-optim bench-steps bench-recipes lock clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv, install what the lock file names, build the extension

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; install one or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@command -v cargo >/dev/null || { echo "make: no cargo found; install Rust: https://rustup.rs"; exit 1; }
	@echo "setup: installing into $(VENV) (the first time downloads torch: about 3 GB on x86-64 Linux)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# Without build isolation the sources among the dependencies (pychop) are built by this environment's setuptools;
# those that come with Python 3.11 have no bdist_wheel. maturin is looked for on PATH.
	$(BIN)/python -m pip install -q $(CONSTRAINTS) maturin 'setuptools>=70.1'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install -q $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	@touch -c $(MODULE) && touch $(STAMP)

build: $(MODULE)  ## rebuild the Rust extension if a source changed

$(MODULE): $(RUST) | $(STAMP)
	$(BIN)/maturin develop --release --skip-install -q
	@touch $(MODULE)

demo: build  ## the main job: compare fp32, MXFP8, MXFP4, PTQ, QAT and LOTION on a small language model
	$(BIN)/dither compare $(CONFIG) --out $(OUT)

test: test-rust test-python  ## Rust tests, then the fast Python tests

test-rust: $(STAMP)
	@if cargo nextest --version >/dev/null 2>&1; then \
	   echo "cargo nextest run --workspace"; cargo nextest run --workspace --cargo-quiet --status-level fail; \
	 else echo "cargo test --workspace"; cargo test --workspace --quiet; fi

test-python: build
	$(BIN)/pytest -m 'not slow' --benchmark-disable $(PYTEST_ARGS) python/tests

test-slow: build  ## what is marked slow: compilation, long exhaustive checks, whole comparisons
	cargo test --workspace --release --quiet -- --ignored
	cargo test --profile checked -p dither-quant --quiet
	$(BIN)/pytest -m slow --benchmark-disable $(PYTEST_ARGS) python/tests

lint: lint-rust lint-python  ## formatting, clippy, ruff, pyright and the import rules (-k: all of them)

lint-rust: $(STAMP)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

lint-python: build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format:  ## rewrite Rust and Python sources in the house format
	cargo fmt --all
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: build  ## what is called most, peers beside us: two minutes, no verdicts
	OMP_NUM_THREADS=1 $(BIN)/pytest -q benches/test_benchmark.py --benchmark-only --benchmark-max-time=0.5 --benchmark-columns=min,median,rounds --benchmark-sort=min $(PYTEST_ARGS)

# In pieces: make bench-numbers BENCH_NUMBERS=benches/test_bench_codes.py PYTEST_ARGS='-k avx2'
BENCH_NUMBERS ?= $(addprefix benches/test_bench_,$(addsuffix .py,numbers fresh random codes matmul peers sweep))

bench-numbers: build  ## the numbers pillar against memcpy and peers: one table with goals; fails where a row fails
	$(BIN)/pytest -q -s --tb=line $(PYTEST_ARGS) $(BENCH_NUMBERS)

bench-fits: build  ## scaling-law fits against scipy: fails where a target is missed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q -s --tb=line $(PYTEST_ARGS) benches/test_bench_fits.py

bench-scores: build  ## example scores against numpy, torch, scipy and reading the memory: fails where a row fails
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q --tb=line $(PYTEST_ARGS) benches/test_bench_scores.py

bench-optim: build  ## optimizer steps against torch's fused AdamW and memcpy: fails where a row fails
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --tb=line $(PYTEST_ARGS) benches/test_bench_optim.py

bench-steps: build  ## training steps under recipes and LOTION against fp32, QAT and pure torch: fails where a row fails
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --tb=line -k 'not test_recipe' $(PYTEST_ARGS) benches/test_bench_step.py benches/test_bench_methods.py

bench-recipes: build  ## what every recipe costs: the figures in docs/recipes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --tb=line -k test_recipe $(PYTEST_ARGS) benches/test_bench_step.py

lock: $(STAMP)  ## write requirements.lock from what is installed in .venv
	$(BIN)/python -m pip freeze --exclude-editable --exclude dither | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$' > requirements.lock
	@touch $(STAMP)

clean:  ## remove build products and caches (keeps .venv and runs)
	rm -rf target dist $(MODULE) .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find python benches -name __pycache__ -type d -prune -exec rm -rf {} +
