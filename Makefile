# Recipes for people and for CI, which calls nothing else. `make` without a target lists them.

export PATH := $(HOME)/.cargo/bin:$(PATH)
# The checked queries of .sqlx/ stand in for a database while compiling.
export SQLX_OFFLINE := true
# Incremental files are half of what a first build writes, and of use only where code is edited: CARGO_INCREMENTAL=1 make test.
export CARGO_INCREMENTAL ?= 0

WITH_POSTGRES := cargo run --quiet -p private-postgres --bin with-postgres --

.PHONY: help install demo dev test check faults bench load evidence fuzz regenerate

help:
	@echo "make demo        build, then show the main job from training to averaged model (KEEP=1 leaves the service up)"
	@echo "make dev         run the whole service on this machine, at http://127.0.0.1:8700"
	@echo "make test        every test, on a private Postgres of this machine"
	@echo "make check       formatting, lints, the layer rule, dependencies"
	@echo "make faults      everything killed, stalled, cut off and filled up, in the long form; one table (MINUTES=10 JOBS=200 SEED=1)"
	@echo "make bench       every benchmark beside its peer; one table, also target/bench.json (ONLY=merge for one group)"
	@echo "make load        the service under load beside MLflow; one table, also target/load.json (ONLY=pages for one group;"
	@echo "                 STORE=s3 for transfers on versitygw, also target/load-s3.json)"
	@echo "make evidence    every method and setting on real checkpoints; the table of docs/method.md (DATA=folder SEEDS=3 FRESH=1)"
	@echo "make fuzz        every fuzz target in turn, MINUTES=10 each (TARGETS=pickle for one)"
	@echo "make regenerate  .sqlx/, openapi/ and docs/problems.md, after changes to what they are made from"

install:
	@scripts/install-deps.sh

demo: install
	cargo build --release --bin barycenter --example demo
	target/release/examples/demo $(if $(KEEP),--keep)

dev: install
	cargo run --release --bin barycenter -- dev

test: install
	cargo build -p private-postgres --bin with-postgres
	$(WITH_POSTGRES) cargo test --workspace

check: install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --test layers
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

faults:
	scripts/install-deps.sh faults
	MINUTES=$(MINUTES) JOBS=$(JOBS) SEED=$(SEED) scripts/faults.sh

# Criterion shows what a change does to a kernel; the table beside the peers is what the targets are stated in.
bench:
	scripts/install-deps.sh bench
	cargo bench -p barycenter-bench --bench kernels
	cargo build --release -p barycenter-bench --bins
	scripts/bench.sh --only "$(ONLY)" $(if $(KEEP),--keep $(KEEP))

load:
	scripts/install-deps.sh bench
	cargo build --release --workspace --bins
	scripts/load.sh --only "$(ONLY)" $(if $(STORE),--store $(STORE))
	$(if $(KEEP),python3 benches/compare/results.py target/load$(if $(filter s3,$(STORE)),-s3).json $(KEEP))

# Rows that are there already are kept, those of benches/results too: a run that was stopped goes on. FRESH=1 starts anew.
evidence: install
	cargo build --release --workspace --bins
	mkdir -p target
	$(if $(FRESH),rm -f target/evidence*.json,cp -n benches/results/evidence*.json target/ 2>/dev/null || true)
	target/release/evidence $(or $(DATA),../shared/data/cifar10-resnet20) target/evidence.json $(or $(SEEDS),3)
	target/release/evidence_tasks . target/evidence-tasks.json $(or $(SEEDS),3)
	python3 benches/evidence/table.py target docs/method.md

# The sanitizer's flags are unstable, the compiler is the project's own.
fuzz: install
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	MINUTES=$(or $(MINUTES),10) TARGETS="$(TARGETS)" RUSTC_BOOTSTRAP=1 scripts/fuzz.sh

regenerate: install
	scripts/regenerate.sh
