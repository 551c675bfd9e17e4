#!/usr/bin/env bash
# compute-sanitizer over the training steps of a few random shapes on an NVIDIA GPU: a line a tool with errors and seconds.
#
# Usage: scripts/bench/sanitize.sh [--output DIR] [--tools memcheck,racecheck,initcheck,synccheck] [--precisions f32,fp16]
#                                  [--shapes 2] [--filters 64] [--batch 128] [--seconds 65] [--all-kernels]
#
# Each tool runs the test `gpu_shapes` once a precision, for --seconds at most. racecheck and synccheck look at our own kernels only
# unless --all-kernels; initcheck and memcheck at all, and findings in ours are counted apart. DIR (.cache/bench/sanitize) gets table and logs.
# On a machine without `cargo`, MTID_BIN names a folder with the test binary, called gpu_shapes.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

output=$cache/bench/sanitize options=()
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --all-kernels) options+=("$1"); shift ;;
    --output | --tools | --precisions | --shapes | --filters | --batch | --seconds)
      (($# > 1)) || bad_usage "$1 needs a value"
      if [[ $1 == --output ]]; then output=$2; else options+=("$1=$2"); fi
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/sanitize.sh --help says what there is" ;;
  esac
done

sanitizer=${COMPUTE_SANITIZER:-}
for candidate in compute-sanitizer /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
  if [[ -z $sanitizer ]] && command -v "$candidate" >/dev/null; then sanitizer=$candidate; fi
done
[[ -n $sanitizer ]] || bad_usage "there is no \`compute-sanitizer\` here" "it comes with CUDA's toolkit; or name it: COMPUTE_SANITIZER=/path"

if [[ -n ${MTID_BIN:-} ]]; then
  program=$(realpath -m "$MTID_BIN/gpu_shapes")
  [[ -x $program ]] || die "\`$MTID_BIN\` (MTID_BIN) has no test binary \`gpu_shapes\`" "correct or unset MTID_BIN"
else
  command -v cargo >/dev/null || die "no \`cargo\` found, which builds the test" \
    "install a Rust toolchain (see rustup), or set MTID_BIN to a folder with the test binary \`gpu_shapes\`"
  say "building the test"
  program=$(cd "$root" && cargo test --release --quiet -p train --test gpu_shapes --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*gpu_shapes-[^"]*\)".*/\1/p' | tail -1)
  [[ -n $program ]] || die "the build failed; its messages are above"
fi
find_python 10
use_library
exec "$python" "$root/scripts/bench/sanitize.py" --program "$program" --output "$output" --sanitizer "$sanitizer" "${options[@]}"
