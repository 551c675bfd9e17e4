#!/usr/bin/env bash
# Kill a training with SIGKILL at random moments; it must end with the same model and the same history.
#
# Usage: scripts/stress/train_kills.sh [MOMENTS [SEED]]        30 moments, seed 1
#
# Needs built programs (scripts/setup.sh, cargo build --release); MTID_BIN names their folder. A moment is drawn from the whole
# time of an uninterrupted training. After the kill the same command goes on to the end; then model.onnx must have the same
# bytes, history.csv every epoch once with the same numbers (times aside), and the journal one COMPLETE trial. With a
# moment after the end of a training nothing is killed: it is drawn again.
set -euo pipefail

moments=${1:-30} seed=${2:-1} epochs=20
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
bin=${MTID_BIN:-$root/target/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
RANDOM=$seed

cat >"$work/config.json" <<'JSON'
{ "model_parameters": { "hp_max_evals": 1, "epochs": 20, "batch_size": 64, "early_stopping": { "patience": 100 },
    "weight_decay": 0.01, "global_clipnorm": 0.5, "class_weight": "balanced", "label_smoothing": 0.05,
    "learning_rate_schedule": { "name": "one_cycle", "warmup_epochs": 0.5 },
    "space_options": { "n_conv_layers": [2], "n_dense_layers": [2], "n_filters": [16], "kernel_size": [3],
      "n_dense_units": [32], "dropout_rate": [0.1], "learning_rate": [0.003] } } }
JSON
"$bin/simulate" --output "$work/npz" --clusters 3000 --seed 5 >/dev/null
"$bin/prepare" --config "$work/config.json" --input "$work/npz" --output "$work/data" >/dev/null 2>&1

# new STUDY: a study with one trial asked for.
new() {
  "$bin/search" create --config "$work/config.json" --study "$1" >/dev/null
  "$bin/search" ask --study "$1" >/dev/null
}
train() { "$bin/train" --trial "$1/trials/0000" --data "$work/data" --device cpu >>"$work/words" 2>&1; }
# rows STUDY: history.csv without the columns of times.
rows() { cut -d, -f1,2,5- "$1/trials/0000/history.csv"; }

new "$work/whole"
start=$(date +%s%N)
train "$work/whole"
milliseconds=$((($(date +%s%N) - start) / 1000000))
printf 'without a kill: %d ms, %d epochs\n' "$milliseconds" "$(($(wc -l <"$work/whole/trials/0000/history.csv") - 1))"

killed=0 failures=0
while ((killed < moments)); do
  moment=$((RANDOM * 32768 + RANDOM)) study=$work/study
  moment=$((moment % milliseconds))
  rm -rf "$study"
  new "$study"
  "$bin/train" --trial "$study/trials/0000" --data "$work/data" --device cpu >>"$work/words" 2>&1 &
  child=$!
  sleep "$((moment / 1000)).$(printf %03d $((moment % 1000)))"
  kill -KILL "$child" 2>/dev/null || true
  code=0
  wait "$child" 2>/dev/null || code=$?
  if ((code != 137)); then continue; fi
  killed=$((killed + 1))
  done_before=$(($(wc -l 2>/dev/null <"$study/trials/0000/history.csv" || echo 1) - 1))
  verdict=same
  train "$study" || verdict="exit code $?"
  cmp -s "$study/trials/0000/model.onnx" "$work/whole/trials/0000/model.onnx" || verdict='OTHER MODEL'
  [[ $(rows "$study") == "$(rows "$work/whole")" ]] || verdict='OTHER HISTORY'
  [[ $(rows "$study" | tail -n +2 | cut -d, -f1 | paste -sd,) == $(seq -s, 1 "$epochs") ]] || verdict='GAP OR DOUBLE ROW'
  "$bin/search" status --study "$study" | grep -q '1 complete' || verdict='TRIAL NOT COMPLETE'
  [[ $verdict == same ]] || failures=$((failures + 1))
  printf 'kill %2d after %5d ms (%2d epochs in history.csv): %s\n' "$killed" "$moment" "$done_before" "$verdict"
done
printf '%d kills, %d failures\n' "$killed" "$failures"
((failures == 0))
