#!/usr/bin/env bash
# Training on this machine's processor against Keras, in one command: a Markdown table of samples/s and ratios.
#
# Usage: scripts/bench/train_cpu.sh [--data SPLITS] [--rounds N] [--threads N] [--networks F32,F128,F256]
#
# Builds what is measured, simulates 20,000 clusters (unless --data names a split folder with images of 128x16), and runs Keras
# and `train`'s step in turns, with 2 threads each unless told otherwise. The first time it installs tensorflow-cpu into
# `.cache/venv-keras` (about 1.5 GB); KERAS_PYTHON=/path/to/python names an interpreter that has it and pyarrow.
# Takes about 10 minutes on two cores after the builds. The table goes to standard output, all else to standard error.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=lib.sh
. "$root/scripts/bench/lib.sh"

data='' options=()
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --data | --rounds | --threads | --networks)
      (($# > 1)) || bad_usage "$1 needs a value"
      if [[ $1 == --data ]]; then data=$2; else options+=("$1" "$2"); fi
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/train_cpu.sh --help says what there is" ;;
  esac
done

"$root/scripts/setup.sh" >&2
build_bench
if [[ -z ${KERAS_PYTHON:-} ]]; then
  python_environment "$root/scripts/bench/requirements-keras.txt" "$cache/venv-keras" "the Keras peer"
  KERAS_PYTHON=$cache/venv-keras/bin/python
fi
"$KERAS_PYTHON" -c 'import tensorflow, keras, pyarrow' 2>/dev/null || die "\`$KERAS_PYTHON\` can't import tensorflow, keras and pyarrow" \
  "correct or unset KERAS_PYTHON"
if [[ -z $data ]]; then data=$(bench_data 20000); fi
exec "$KERAS_PYTHON" "$root/scripts/bench/train_cpu.py" --data "$data" --keras-python "$KERAS_PYTHON" --ours "$throughput" "${options[@]}"
