# Each target does its own set-up; `make demo` and `make test` work on a clean clone with nothing else done first.
.PHONY: all build setup demo test lint bench generate clean

all: build

setup: ## packages, helper programs and Rust targets that the project needs on this machine
	scripts/setup

build: ## the programs, optimised, in target/release
	scripts/build release

demo: ## one workspace from manifest to result, on real parts
	scripts/demo

test: ## everything that CI checks
	scripts/test

lint: ## formatting, clippy, documentation
	scripts/lint

bench: ## the figures of the main job and of ten thousand workspaces
	scripts/bench

generate: ## write the generated files anew
	scripts/generate

clean:
	cargo clean
