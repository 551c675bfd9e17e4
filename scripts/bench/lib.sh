# What the measurements of a training share; to be sourced after scripts/lib.sh, not run.
# shellcheck shell=bash

: "${root:?}" "${cache:?}"
# Set by build_bench: the program that times training steps.
throughput=''

# build_bench: `throughput`, and the programs that make data, in `bin`. MTID_BIN names a folder where they are already, for a
# machine without `cargo`.
build_bench() {
  local name
  if [[ -n ${MTID_BIN:-} ]]; then
    bin=$(cd "$MTID_BIN" 2>/dev/null && pwd -P) || die "MTID_BIN names \`$MTID_BIN\`, which is no folder"
    for name in "$bin/throughput" "$bin/examples/throughput"; do
      if [[ -x $name ]]; then throughput=$name; fi
    done
    [[ -n $throughput ]] || die "\`$bin\` (MTID_BIN) has no program \`throughput\`" "correct or unset MTID_BIN"
    return
  fi
  command -v cargo >/dev/null || die "no \`cargo\` found, which builds the programs" \
    "install a Rust toolchain (see rustup), or set MTID_BIN to a folder with throughput, simulate and prepare"
  bin=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/release
  throughput=$bin/examples/throughput
  say "building the programs"
  (cd "$root" && cargo build --release --quiet -p simulator -p prepare && cargo build --release --quiet -p train --example throughput) ||
    die "the build failed; its messages are above"
}

# bench_data CLUSTERS: simulate and prepare so many clusters, once; prints the split folder.
bench_data() {
  local place=$cache/bench/$1 name
  if [[ ! -e $place/splits/manifest.json ]]; then
    for name in simulate prepare; do
      [[ -x $bin/$name ]] || die "\`$bin\` has no program \`$name\`, which makes the data" "or name a split folder with --data"
    done
    say "simulating $1 clusters into $place"
    rm -rf "$place"
    mkdir -p "$place"
    "$bin/simulate" --output "$place/clusters" --clusters "$1" >&2
    "$bin/prepare" --config "$root/scripts/configs/v4.json" --input "$place/clusters" --output "$place/splits" >&2
  fi
  printf '%s\n' "$place/splits"
}
