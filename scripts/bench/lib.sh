# What the measurements of a training share; to be sourced after scripts/lib.sh, not run.
# shellcheck shell=bash

: "${root:?}" "${cache:?}"
# Set by build_bench: the program that times training steps. By need_torch: a Python with PyTorch.
throughput='' torch_python=''

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

# build_programs NAME...: programs of the pipeline, in `bin`; MTID_BIN as above.
build_programs() {
  local name
  if [[ -n ${MTID_BIN:-} ]]; then
    bin=$(cd "$MTID_BIN" 2>/dev/null && pwd -P) || die "MTID_BIN names \`$MTID_BIN\`, which is no folder"
    for name; do
      [[ -x $bin/$name ]] || die "\`$bin\` (MTID_BIN) has no program \`$name\`" "add it, or correct or unset MTID_BIN"
    done
    return
  fi
  command -v cargo >/dev/null || die "no \`cargo\` found, which builds the programs" \
    "install a Rust toolchain (see rustup), or set MTID_BIN to a folder with $*"
  bin=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/release
  say "building the programs"
  (cd "$root" && cargo build --release --quiet --workspace --bins) || die "the build failed; its messages are above"
}

# need_torch DEVICE: `torch_python`, and a GPU unless DEVICE is cpu. Without the right machine this is no failure of the
# programs: code 2, as for a wrong command line.
need_torch() {
  torch_python=${TORCH_PYTHON:-python3}
  "$torch_python" -c 'import torch' 2>/dev/null ||
    bad_usage "\`$torch_python\` has no PyTorch, the peer of this measurement" \
      "install it, or name another: TORCH_PYTHON=/path/to/python"
  [[ $1 == cpu ]] || "$torch_python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    bad_usage "PyTorch finds no NVIDIA GPU here" "run this on a machine with one; scripts/bench/train_cpu.sh measures the processor"
}
