# A little test harness; to be sourced by the tests of the scripts.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
sandbox=$(mktemp -d)
trap 'rm -rf "$sandbox"' EXIT
# Where the test that runs now writes what it wants to compare.
log=$sandbox/log

# programs NAME...: where the built programs are, into `bin`, for the scripts under test too; these must be there.
programs() {
  local name
  bin=${MTID_BIN:-$(realpath -m "${CARGO_TARGET_DIR:-$scripts/../target}")/release}
  for name; do
    [[ -x $bin/$name ]] || { echo "no program $bin/$name; run: cargo build --release --workspace"; exit 1; }
  done
  export MTID_BIN=$bin
}

# it NAME FUNCTION: run a test in a shell of its own that stops at the first failing command.
it() {
  local code=0
  # Not as a condition: `set -e` would then be off inside.
  set +e
  (
    set -e
    mkdir -p "$sandbox/$2"
    cd "$sandbox/$2" || exit 1
    "$2"
  ) >"$log" 2>&1
  code=$?
  set -e
  if ((code)); then
    printf 'FAIL %s\n' "$1"
    sed 's/^/     /' "$log"
  else
    printf 'ok   %s\n' "$1"
  fi
  if [[ -n ${MTID_TEST_TALLY:-} ]]; then echo "$code" >>"$MTID_TEST_TALLY"; fi
}

# same ACTUAL EXPECTED
same() {
  [[ $1 == "$2" ]] && return
  printf 'found:    %s\nexpected: %s\n' "$1" "$2"
  return 1
}

# fails CODE COMMAND...: the command must end with this code; its words go to `words`.
fails() {
  local expected=$1 code=0
  shift
  "$@" >words 2>&1 || code=$?
  cat words
  same "exit $code" "exit $expected"
}

# says TEXT: the last `fails` or `to_words` must have written this.
says() { grep -qF -- "$1" words || { printf 'not said: %s\n' "$1"; return 1; }; }
