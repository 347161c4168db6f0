# `make` alone lists the targets. `make bench BENCH="broadcast --rounds 3"` runs one bench; `BENCH=--list` names them
# (docs/PERFORMANCE.md). `make proof PROOF="kills --seed 7"` runs one scenario of the proof from that seed; `PROOF=--list` names them
# (docs/RELIABILITY.md).
.DEFAULT_GOAL := help
.PHONY: help run test check bench proof proof-full proof-soak all tools

help:
	@echo 'make run     build and start both services with the sandbox, on 127.0.0.1:8080 and 127.0.0.1:8081'
	@echo 'make test    run all tests; those that want a server that is not there are counted as skipped'
	@echo 'make check   check format, lints and the configuration'
	@echo 'make bench   measure speed and memory against floors and against other senders; BENCH=--help says what can be chosen'
	@echo 'make proof   break things and count what was lost, in minutes; make proof-full: more of it; make proof-soak: an hour; PROOF=--help'
	@echo 'make all     start Kafka, Mailpit, warmup and health in containers (docker compose)'

# Everything that a build needs and a bare machine may lack, each with the command that installs it.
tools:
	@missing=0; \
	say() { echo "missing: $$1. Install it with: $$2" >&2; missing=1; }; \
	command -v cargo >/dev/null || say 'Rust (cargo)' "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"; \
	cc=$$(command -v cc || command -v gcc || command -v clang); \
	if [ -z "$$cc" ]; then say 'a C compiler' 'sudo apt-get install gcc libc6-dev'; \
	elif ! echo '#include <stdlib.h>' | "$$cc" -E - >/dev/null 2>&1; then say 'the C headers' 'sudo apt-get install libc6-dev'; \
	elif ! echo '#include <zlib.h>' | "$$cc" -E - >/dev/null 2>&1; then say 'the zlib headers (zlib.h)' 'sudo apt-get install zlib1g-dev'; fi; \
	case "$${CARGO_TARGET_DIR:-$$PWD}" in \
	*[[:space:]]*) echo "librdkafka and jemalloc do not build in a folder whose path has a space: move this one, or set CARGO_TARGET_DIR" >&2; missing=1;; \
	esac; \
	exit $$missing

run: tools
	@exec cargo run --release --locked -p postwarm --bin postwarm -- serve --config config --data data

# Tests append a line to POSTWARM_SKIP_LOG for each check that they could not make; they are shown after cargo's own lines.
test: tools
	@log=$$(mktemp); \
	POSTWARM_SKIP_LOG="$$log" cargo test --workspace --locked $(TEST_FLAGS); code=$$?; \
	sort -u "$$log"; \
	echo "$$(sort -u "$$log" | grep -c '^skipped:') tests skipped for want of a server"; \
	rm -f "$$log"; \
	exit $$code

check: tools
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p postwarm --test proof --locked -- -D warnings
	cargo run --quiet --locked -p postwarm -- check --config config

bench: tools
	cargo bench --locked -p postwarm --bench bench -- $(BENCH)

proof: tools
	cargo test --release --locked -p postwarm --test proof -- $(PROOF)

proof-full: tools
	cargo test --release --locked -p postwarm --test proof -- --size full $(PROOF)

proof-soak: tools
	cargo test --release --locked -p postwarm --test proof -- soak --minutes 60 $(PROOF)

all:
	docker compose up --build
