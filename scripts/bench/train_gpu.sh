#!/usr/bin/env bash
# Training on an NVIDIA GPU against PyTorch on the same GPU, in one command: a Markdown table of samples/s and ratios.
#
# Usage: scripts/bench/train_gpu.sh [--data SPLITS] [--device cuda:0] [--rounds N] [--networks F32,F128,F256] [--compile]
#
# Needs a GPU and a Python with PyTorch (`python3`, or TORCH_PYTHON=/path/to/python); without them it ends with code 2.
# Simulates 100,000 clusters unless --data names a split folder with images of 128x16. PyTorch runs eagerly and as a CUDA graph
# (channels-last, tf32 and bf16), with --compile also through torch.compile (max-autotune: minutes a network).
# On a machine without `cargo`, MTID_BIN names a folder with the programs throughput, simulate and prepare.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=lib.sh
. "$root/scripts/bench/lib.sh"

data='' options=()
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --compile) options+=("$1"); shift ;;
    --data | --rounds | --device | --networks)
      (($# > 1)) || bad_usage "$1 needs a value"
      if [[ $1 == --data ]]; then data=$2; else options+=("$1" "$2"); fi
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/train_gpu.sh --help says what there is" ;;
  esac
done

# Without the right machine this is no failure of the programs: code 2, as for a wrong command line.
torch_python=${TORCH_PYTHON:-python3}
"$torch_python" -c 'import torch' 2>/dev/null ||
  bad_usage "\`$torch_python\` has no PyTorch, the peer of this measurement" "install it, or name another: TORCH_PYTHON=/path/to/python"
"$torch_python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
  bad_usage "PyTorch finds no NVIDIA GPU here" "run this on a machine with one; scripts/bench/train_cpu.sh measures the processor"

if [[ -z ${ORT_DYLIB_PATH:-} ]]; then "$root/scripts/setup.sh" --gpu >&2; fi
use_library
build_bench
if [[ -z $data ]]; then data=$(bench_data 100000); fi
exec "$torch_python" "$root/scripts/bench/train_gpu.py" --data "$data" --ours "$throughput" "${options[@]}"
