#!/usr/bin/env bash
# Every check of the project. Usage: scripts/test.sh
#
# Fetches ONNX Runtime, makes a pinned Python environment for the cross-checks, builds, lints and tests.
# Needs a Rust toolchain and Python 3.11 or newer with pip; all else it gets itself, into .cache and target.
# The first run takes about 15 minutes on two processor cores, later ones a few. MTID_PYTHON names the Python.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in
  '') ;;
  -h | --help) help_of "$0"; exit ;;
  *) bad_usage "unexpected argument \`$1\`" "for single tests use cargo: cargo test --release -p train NAME" ;;
esac
cd "$root"
unset MTID_BIN # the tests are about what is built here

# step COMMAND...: say what runs, then run it; its time goes to the log.
step() {
  local start=$SECONDS
  printf '\n--- %s\n' "$*"
  "$@"
  printf -- '--- took %d s\n' $((SECONDS - start))
}

command -v cargo >/dev/null || die "no \`cargo\` found" "install a Rust toolchain (see rustup)"
step "$root/scripts/setup.sh"
step test_python
export MTID_TEST_PYTHON=$cache/venv-test/bin/python

step cargo build --release --workspace --locked
step "$root/scripts/check.sh"
if command -v cargo-nextest >/dev/null; then
  step cargo nextest run --release --workspace --locked --no-fail-fast
  step cargo test --release --workspace --locked --doc
else
  step cargo test --release --workspace --locked --no-fail-fast
fi
if ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  printf '\nSKIPPED: the tests on a GPU; this machine has none\n'
fi
if ! command -v chromium chromium-browser google-chrome >/dev/null; then
  printf '\nSKIPPED: the report in a browser; this machine has no Chromium\n'
fi
step "$root/scripts/tests/run.sh"
