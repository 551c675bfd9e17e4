#!/usr/bin/env bash
# The quick checks: formatting, lints, shell scripts, licences. Usage: scripts/check.sh
#
# What is not installed (shellcheck, cargo-deny) is skipped with a word. scripts/test.sh runs these and every test.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in
  '') ;;
  -h | --help) help_of "$0"; exit ;;
  *) bad_usage "unexpected argument \`$1\`" ;;
esac
cd "$root"
command -v cargo >/dev/null || die "no \`cargo\` found" "install a Rust toolchain (see rustup)"

# step COMMAND...: say what runs, then run it.
step() { say "--- $*"; "$@"; }

step cargo fmt --all --check || die "the formatting differs" "run: cargo fmt --all"
step cargo clippy --release --workspace --all-targets --locked -- -D warnings
if command -v shellcheck >/dev/null; then
  mapfile -t shell_files < <(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run)
  if ((${#shell_files[@]})); then step shellcheck "${shell_files[@]}"; fi
else
  say "skipped: shellcheck is not installed"
fi
if command -v cargo-deny >/dev/null; then
  step cargo deny --offline check licenses bans sources
else
  say "skipped: cargo-deny is not installed"
fi
say "checks passed"
