.PHONY: demo test lint faults faults-mutations soak bench services

demo: ## see it work: 10,000 orders, a stand-in ERP, balanced books
	cargo run --release --bin crossdock -- demo

test: lint ## formatting, clippy, documentation, all tests
	cargo test

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

SCALE ?= full
faults: ## harm done to the engine, one line a scenario; ONLY=name plays one, SEED=number repeats one, BACKEND=rabbitmq on RabbitMQ and PostgreSQL
	@CROSSDOCK_FAULTS=$(SCALE) CROSSDOCK_FAULTS_ONLY=$(ONLY) CROSSDOCK_FAULTS_SEED=$(SEED) CROSSDOCK_FAULTS_BACKEND=$(BACKEND) \
		cargo test --quiet --test main faults::the_list -- --exact --nocapture

faults-mutations: ## mistakes in the engine that the fault tests must catch, one line each
	@CROSSDOCK_FAULTS=small CROSSDOCK_FAULTS_SEED=$(SEED) \
		cargo test --quiet --test main faults::mutations::the_oracle -- --nocapture

soak: ## the same for a night
	@$(MAKE) --no-print-directory faults SCALE=long BACKEND=$(BACKEND)

bench: ## how far we are from the limits of the disk and the CPU, in one run
	cargo bench --bench main

services: ## install and start RabbitMQ and PostgreSQL where they are not reachable
	sh tests/support/services.sh
