#!/usr/bin/env bash
# Several trials side by side on one card against one after the other: a Markdown table of seconds, speed-up and clusters/s.
#
# Usage: scripts/bench/many_trials.sh [--data SPLITS] [--clusters N] [--output DIR] [--device cuda:0] [--precision tf32|fp16]
#                                     [--workers 1,4] [--trials 8] [--epochs 12]
#
# Simulates 500,000 clusters (350,000 of them for training) unless --data names a split folder. The same trials are trained
# once for each number of workers, each time in a new study in DIR (.cache/bench/many_trials), which also gets table and log.
# On a machine without `cargo`, MTID_BIN names a folder with the programs search, train, simulate and prepare.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=lib.sh
. "$root/scripts/bench/lib.sh"

data='' clusters=500000 output=$cache/bench/many_trials device=cuda:0 options=()
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --data | --clusters | --output | --device | --precision | --workers | --trials | --epochs)
      (($# > 1)) || bad_usage "$1 needs a value"
      case $1 in
        --data) data=$2 ;;
        --clusters) clusters=$2 ;;
        --output) output=$2 ;;
        --device) device=$2 ;;
        *) options+=("$1=$2") ;;
      esac
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/many_trials.sh --help says what there is" ;;
  esac
done

find_python 10
use_library
build_programs search train simulate prepare
if [[ -z $data ]]; then data=$(bench_data "$clusters"); fi
exec "$python" "$root/scripts/bench/many_trials.py" --data "$data" --output "$output" --bin "$bin" --device "$device" "${options[@]}"
