# Sourced by the other scripts: where things are, and how to speak.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# Helper programs that are built or unpacked once, outside the repository.
TOOLS=${MICROAGENT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/microagent-tools}
# Kernels and images that tests and the demo share between runs.
TEST_CACHE=${MICROAGENT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/microagent-test}

export MICROAGENT_TOOLS=$TOOLS MICROAGENT_TEST_CACHE=$TEST_CACHE
export PATH="$TOOLS/bin:$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
