# Everything runs in .venv, which the first target that needs it makes. On a machine with Python
# 3.11+ and a Rust toolchain: `make demo`, `make test`. UV_TORCH_BACKEND=cpu (or cu130, auto) in the
# environment chooses the build of torch; without it comes the one that PyPI has for this system.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python -r pyproject.toml
RUST_SOURCES := $(shell find rust -name '*.rs' 2>/dev/null) Cargo.toml Cargo.lock
DEMO := demo
DEMO_STEPS ?= 1500
DATA ?= ../shared/data
RUN := $(CURDIR)/$(BIN)/microgpt

.DEFAULT_GOAL := help
.PHONY: help venv build demo test test-slow fuzz lint format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Stamps: a file that is younger than what it was made from says that nothing is to be done.

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/runs.stamp: pyproject.toml | $(BIN)/uv
	$(UV) --extra train 'maturin>=1.9,<2'
	@touch $@

.venv/develops.stamp: .venv/runs.stamp
	$(UV) --extra train --group dev --group peers
	@touch $@

.venv/built.stamp: .venv/runs.stamp $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo "error: a Rust toolchain is needed: https://rustup.rs" >&2; exit 1; }
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --quiet --release --uv
	@touch $@

venv: .venv/develops.stamp  ## make .venv with all that developing needs

build: .venv/built.stamp  ## build the Rust core and install the package into .venv

# The demo works in a folder of its own and goes on where an earlier one stopped.

$(DEMO)/addition.txt: dummy_data/addition_dummy.py | $(BIN)/uv
	@mkdir -p $(DEMO)
	$(BIN)/python $< > $@.tmp && mv $@.tmp $@

$(DEMO)/held_out.txt: dummy_data/addition_dummy.py | $(BIN)/uv
	@mkdir -p $(DEMO)
	$(BIN)/python $< --held-out > $@.tmp && mv $@.tmp $@

$(DEMO)/tokenized.stamp: $(DEMO)/addition.txt | .venv/built.stamp
	cd $(DEMO) && $(RUN) tokenize addition.txt
	@touch $@

$(DEMO)/trained.stamp: $(DEMO)/tokenized.stamp | .venv/built.stamp
	cd $(DEMO) && if grep -qs '"status": "finished"' runs/addition/run.json; then :; \
	  elif [ -e runs/addition/run.json ]; then $(RUN) train --resume addition; \
	  else $(RUN) train addition.txt --name addition --line-mask --steps $(DEMO_STEPS); fi
	@touch $@

demo: .venv/built.stamp $(DEMO)/trained.stamp $(DEMO)/held_out.txt  ## train an adding machine, test it, ask it
	cd $(DEMO) && $(RUN) eval addition held_out.txt --exact-match
	cd $(DEMO) && $(RUN) generate '13 + 29 = ' --run addition --temperature 0 --echo
	@echo "Talk to it: cd $(DEMO) && $(RUN) chat addition"

test: .venv/built.stamp .venv/develops.stamp  ## run all tests but the slow ones, Rust and Python
	cargo test --quiet
	$(BIN)/python -m pytest

test-slow: .venv/built.stamp .venv/develops.stamp  ## run the tests that take minutes
	cargo test --quiet -- --include-ignored
	$(BIN)/python -m pytest -m slow

# Coverage-guided fuzzing on stable Rust: these are the flags that `cargo fuzz --sanitizer none` sets.
# RUSTC_BOOTSTRAP=1 make fuzz SANITIZER=address finds what reads or writes where it must not.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/targets/*.rs)))
FUZZ_HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 $(foreach flag, level=4 \
  inline-8bit-counters pc-table trace-compares,-Cllvm-args=-sanitizer-coverage-$(flag)) \
  $(if $(SANITIZER),-Zsanitizer=$(SANITIZER))

fuzz:  ## feed the tokenizer hostile bytes, FUZZ_SECONDS (60) for each target of fuzz/
	RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --quiet --release --manifest-path fuzz/Cargo.toml \
	  --target $(FUZZ_HOST) --target-dir fuzz/target
	@set -e; for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target fuzz/artifacts/$$target; echo "== $$target"; \
	  fuzz/target/$(FUZZ_HOST)/release/$$target fuzz/corpus/$$target fuzz/kept/$$target -timeout=20 \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=fuzz/artifacts/$$target/ -print_final_stats=1; done

lint: .venv/develops.stamp  ## check style and types, Rust and Python
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo clippy --quiet --all-targets --features python -- -D warnings

# DATA holds the texts; NANOGPT is a checkout of github.com/karpathy/nanoGPT. Each script says more.
bench: .venv/built.stamp .venv/develops.stamp  ## measure against the peers that are installed
	$(BIN)/python bench/train_tokenizer.py $(DATA)/english.txt.xz $(DATA)/code.txt.xz
	$(BIN)/python bench/encode.py $(DATA)/english.txt.xz $(DATA)/code.txt.xz --vocabularies $(DATA)/openai
	$(BIN)/python bench/decode.py $(DATA)/english.txt.xz --vocabularies $(DATA)/openai
	$(BIN)/python bench/shards.py $(DATA)/wikitext-train-head.txt
	@if [ -n "$(NANOGPT)" ]; then $(BIN)/python bench/train.py --nanogpt $(NANOGPT); \
	  else echo "bench/train.py is left out: name a checkout with NANOGPT=PATH"; fi

format: .venv/develops.stamp  ## put sources into the one form
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	cargo fmt

clean:  ## remove what was built and the demo; datasets/ and runs/ stay
	rm -rf .venv target dist $(DEMO) .pytest_cache .ruff_cache .hypothesis
