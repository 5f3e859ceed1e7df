.PHONY: demo test lint api-fuzz deny oidc-check faults faults-mutations soak bench services telemetry-check

demo: ## see it work: 10,000 orders, a stand-in ERP, balanced books
	cargo run --release --bin crossdock -- demo

test: lint ## formatting, clippy, documentation, all tests
	cargo test

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

api-fuzz: ## schemathesis against the admin API, in a virtual environment below target/: no 5xx, no undocumented answer
	sh tests/support/api-fuzz.sh

DENY ?= target/tools/bin/cargo-deny
deny: ## licences, sources and known holes of what the program is built from; fetches the list of advisories
	@test -x $(DENY) || cargo install --locked --root target/tools cargo-deny
	$(DENY) check

oidc-check: ## tokens of a real OpenID Connect provider at an API, and people who sign in there; needs Node, and the npm registry the first time
	cargo build
	mkdir -p target/oidc && cp tests/support/oidc/* target/oidc
	cd target/oidc && npm install --no-audit --no-fund --silent && node check.mjs ../debug/crossdock && node sign-in.mjs ../debug/crossdock

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

telemetry-check: ## a real Prometheus scrapes a running engine; promtool checks metrics, alert rules and their tests
	sh tests/support/telemetry.sh
