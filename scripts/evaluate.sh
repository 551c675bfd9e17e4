#!/usr/bin/env bash
# Report how well a model finds main tracks in a new set of NPZ files.
# Usage: scripts/evaluate.sh MODEL NPZ_DIR [OUT] [-- FLAGS OF evaluate]
#
# Prepares all clusters of NPZ_DIR as one test set (OUT/data), keeping repeated ones, and writes the report to
# OUT/report. OUT is `evaluation` by default. Plane and image size come from the model; for a model of another
# program set PLANE. Set TRAINING to the split folder that the model was trained on, and clusters that the training
# has seen are counted and warned about; without it, the data folder beside the model's study is taken, if there is
# one; its validation split, if there is one, chooses what the model doesn't bring (threshold, energy cut).
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in
  -h | --help) help_of "$0"; exit ;;
esac
[[ $# -ge 2 ]] || bad_usage "expected MODEL and NPZ_DIR" "usage: scripts/evaluate.sh MODEL NPZ_DIR [OUT] [-- FLAGS OF evaluate]"
model=$1 npz=$2
shift 2
out=evaluation
if [[ $# -gt 0 && $1 != -- ]]; then out=$1; shift; fi
if [[ ${1:-} == -- ]]; then shift; fi
build_binaries

plane=${PLANE:-} size=''
if [[ -z $plane ]]; then
  plane=$("$bin/evaluate" inspect "$model" --key plane) ||
    die "the model doesn't say for which plane it is" "set it: PLANE=X $0 $model $npz"
fi
if height=$("$bin/evaluate" inspect "$model" --key height 2>/dev/null); then
  size=", \"model_parameters\": { \"input_shape\": [$height, $("$bin/evaluate" inspect "$model" --key width), 1] }"
fi
mkdir -p "$out"
# All of the events are test data.
printf '%s\n' "{ \"plane\": \"$plane\", \"dataset_parameters\": { \"train_fraction\": 0, \"val_fraction\": 0, \"test_fraction\": 1 }$size }" \
  >"$out/config.json"
"$bin/prepare" --config "$out/config.json" --input "$npz" --output "$out/data" --only test --duplicates keep

training=${TRAINING:-}
folder=$(dirname "$model")
for candidate in "$folder/../data" "$folder/../../../data"; do
  if [[ -z $training && -f $candidate/manifest.json && -d $candidate/train ]]; then training=$candidate; fi
done
flags=()
if [[ -n $training ]]; then
  flags=(--training "$training")
  if [[ -d $training/validation ]]; then flags+=(--validation "$training/validation"); fi
else
  printf 'note: TRAINING is not set, so nobody looks for clusters that the training has seen\n' >&2
fi
exec "$bin/evaluate" --model "$model" --data "$out/data/test" --output "$out/report" "${flags[@]}" "$@"
