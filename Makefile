# The recipes of people and of CI are the same. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run check test walls lint bench cluster scale

MODEL ?= loraland
LISTEN ?= 127.0.0.1:8080
ADMIN_LISTEN ?= 127.0.0.1:8081
# `cargo test` builds the binary beside the tests; a build of its own would compile half the dependencies a second time.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
KUBERNETES ?= 1.37
CONTROL_PLANE := $(CURDIR)/.cache/$(if $(filter 1.37,$(KUBERNETES)),k8s,k8s-$(KUBERNETES))/bin
# What depends on the release of the API server: run by `make test` on the oldest that is promised too.
OF_RELEASES := at_rest drain drift fields gpus leader lifecycle samples scaling schema
SMOLLM2 := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## LoRA Land in miniature, from its manifests, on 127.0.0.1:8080 (MODEL=smollm2: a real model)
	@if [ $(MODEL) = smollm2 ]; then tests/setup.sh smollm2; fi
	cargo build --release --package lorikeet-runtime --bin lorikeet --package lorikeet-operator --bin lorikeet-operator
	@MODEL=$(MODEL) SMOLLM2=$(SMOLLM2) LISTEN=$(LISTEN) ADMIN_LISTEN=$(ADMIN_LISTEN) deploy/loraland/run.sh

check: ## fast: formatting, lints, walls and the unit tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo test --workspace --lib --bins --quiet
	cargo test --package lorikeet-tests --test walls --quiet

test: ## everything: installs what the tests need, lints, all tests, all suites over HTTP
	tests/setup.sh python smollm2 llama.cpp s3 k8s
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	LORIKEET_BINARY=$(TARGET)/debug/lorikeet LORIKEET_OPERATOR=$(TARGET)/debug/lorikeet-operator \
		cargo test --workspace --no-fail-fast
	env -u KUBEBUILDER_ASSETS KUBERNETES=1.33 tests/setup.sh k8s
	LORIKEET_BINARY=$(TARGET)/debug/lorikeet LORIKEET_OPERATOR=$(TARGET)/debug/lorikeet-operator \
		KUBEBUILDER_ASSETS=$(CURDIR)/.cache/k8s-1.33/bin cargo test --workspace --test cluster -- $(OF_RELEASES)
	@echo "make test: all passed"

bench: ## the benchmark table, with the peers llama.cpp and transformers + PEFT beside us (40 minutes)
	tests/setup.sh smollm2 llama.cpp peers
	cargo build --release --package lorikeet-runtime --package lorikeet-bench
	.cache/peers/bin/python tests/bench/compare

cluster: ## the operator on a real control plane alone (the first time builds one: 10 minutes; KUBERNETES=1.33: the oldest)
	KUBERNETES=$(KUBERNETES) tests/setup.sh python k8s
	cargo build --package lorikeet-runtime --bin lorikeet --package lorikeet-operator --bin lorikeet-operator
	LORIKEET_BINARY=$(TARGET)/debug/lorikeet LORIKEET_OPERATOR=$(TARGET)/debug/lorikeet-operator \
	  KUBEBUILDER_ASSETS=$${KUBEBUILDER_ASSETS:-$(CONTROL_PLANE)} cargo test --package lorikeet-tests --test cluster

scale: ## the operator with 10,000 Adapters over 64 scripted replicas on a real control plane (LORIKEET_STEPS: fewer)
	tests/setup.sh k8s
	cargo build --release --package lorikeet-operator --bin lorikeet-operator
	LORIKEET_OPERATOR=$(TARGET)/release/lorikeet-operator cargo test --release --package lorikeet-tests --test cluster -- --ignored --nocapture scale
