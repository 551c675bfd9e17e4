#!/usr/bin/env bash
# Training on an NVIDIA GPU against PyTorch on the same GPU, in one command: a Markdown table of samples/s, ratios and arithmetic.
#
# Usage: scripts/bench/train_gpu.sh [--data SPLITS] [--output DIR] [--device cuda:0] [--rounds N] [--networks F32,F128,F256]
#                                   [--compile [bf16|all]] [--seconds N]
#
# Needs a GPU and a Python with PyTorch (`python3`, or TORCH_PYTHON=/path/to/python); without them it ends with code 2.
# Simulates 100,000 clusters unless --data names a split folder with images of 128x16. PyTorch runs eagerly and as a CUDA graph
# (channels-last, tf32 and bf16), with --compile also through torch.compile (max-autotune: minutes a network and precision;
# `bf16` leaves the slower tf32 out). A row is printed as soon as it is known; after --seconds with what there is.
# DIR (.cache/bench/train_gpu) gets the table and everything that was said. --device cpu with --rows, --steps and
# --product of a few hundred tries the script out where there is no GPU.
# On a machine without `cargo`, MTID_BIN names a folder with the programs throughput, simulate and prepare.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=lib.sh
. "$root/scripts/bench/lib.sh"

data='' output=$cache/bench/train_gpu device=cuda:0 options=()
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --compile)
      case ${2:-} in
        bf16 | all) options+=("$1=$2"); shift 2 ;;
        *) options+=("$1=all"); shift ;;
      esac ;;
    --data | --output | --device | --rounds | --networks | --seconds | --rows | --steps | --product)
      (($# > 1)) || bad_usage "$1 needs a value"
      case $1 in
        --data) data=$2 ;;
        --output) output=$2 ;;
        --device) device=$2 ;;
        *) options+=("$1=$2") ;;
      esac
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/train_gpu.sh --help says what there is" ;;
  esac
done

need_torch "$device"
if [[ -z ${ORT_DYLIB_PATH:-} && $device != cpu ]]; then "$root/scripts/setup.sh" --gpu >&2; fi
use_library
build_bench
if [[ -z $data ]]; then data=$(bench_data 100000); fi
exec "$torch_python" "$root/scripts/bench/train_gpu.py" --data "$data" --output "$output" --ours "$throughput" --device "$device" \
  "${options[@]}"
