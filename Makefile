# Holdfast's commands. `make` alone lists them.
#
# One cargo profile (release) serves all of them: each further profile would compile RocksDB once more. Set
# CARGO_TARGET_DIR to keep what is built outside the clone.

CARGO ?= cargo
# Further arguments, such as `make dev ARGS='--data-dir /tmp/holdfast'` or `make test ARGS=tidy`.
ARGS ?=
# Where `make soak` leaves its figures and logs.
SOAK_OUT ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/soak

.DEFAULT_GOAL := help
.PHONY: help setup setup-build dev test soak bench lint fmt

help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what building, testing and linting need: libclang, a C++ compiler, strace, faketime, python3-venv, hey, wrk, promtool, cargo-nextest.
	@scripts/setup build test lint

setup-build:
	@scripts/setup build

dev: setup-build ## Starts one node without configuration. ARGS are those of `holdfast dev`.
	$(CARGO) run --release --locked --bin holdfast -- dev $(ARGS)

test: ## Runs every test but the long ones. ARGS filter by name.
	@scripts/setup build test
	$(CARGO) nextest run --release --locked --workspace $(ARGS)
	$(CARGO) test --release --locked --workspace --doc --quiet

soak: ## Runs the long tests (minutes to hours each). ARGS filter by name.
	@scripts/setup build test
	@mkdir -p '$(SOAK_OUT)'
	@echo 'soak: figures and logs go to $(SOAK_OUT)'
	HOLDFAST_SOAK_OUT='$(SOAK_OUT)' $(CARGO) nextest run --release --locked --workspace --profile soak --no-tests=warn $(ARGS)

bench: setup-build ## Measures: the micro benchmarks, then a whole node with `holdfast bench`. ARGS are those of the latter.
	$(CARGO) bench --locked --workspace
	scripts/bench $(ARGS)

lint: ## Checks formatting, lints and docs; any warning fails.
	@scripts/setup build lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps

fmt: ## Formats the sources.
	$(CARGO) fmt --all
