# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# scripts/evaluate.sh: a model on a folder of NPZ files that it has or hasn't seen.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
programs simulate prepare search train evaluate

# A run as run_v4.sh leaves it, on clusters none of which is repeated.
clusters=$sandbox/clusters
"$bin/simulate" --output "$clusters" --clusters 800 --repeat-share 0 --seed 1 >/dev/null
mkdir "$sandbox/run"
tiny='"n_conv_layers": [2], "n_dense_layers": [2], "n_filters": [8], "kernel_size": [3], "n_dense_units": [32], "dropout_rate": [0.1], "learning_rate": [0.001, 0.002], "decay_rate": [0.95, 0.98]'
echo "{ \"plane\": \"X\", \"model_parameters\": { \"input_shape\": [128, 16, 1], \"epochs\": 1, \"hp_max_evals\": 1, \"space_options\": { $tiny } } }" >"$sandbox/run/config.json"
"$bin/prepare" --config "$sandbox/run/config.json" --input "$clusters" --output "$sandbox/run/data" >/dev/null 2>&1
"$bin/search" create --config "$sandbox/run/config.json" --study "$sandbox/run/study" >/dev/null
"$bin/train" --study "$sandbox/run/study" --data "$sandbox/run/data" --device cpu >/dev/null 2>&1
model=$sandbox/run/study/best.onnx

value() { python3 -c "import json, sys; v = json.load(open(sys.argv[1]))
for key in sys.argv[2:]: v = v[key]
print(v)" "$@"; }

old_clusters_are_reported_and_warned_about() {
  "$scripts/evaluate.sh" "$model" "$clusters" out -- --device cpu 2>words
  cat words
  local rows trained
  trained=$(value "$sandbox/run/data/manifest.json" splits train rows)
  rows=$(value out/data/manifest.json splits test rows)
  ((trained > 300 && rows > trained))
  says "$trained of $rows clusters of \`out/data/test\` are in the training split of"
  same "$(value out/report/report.json data seen_in_training)" "$trained"
  same "$(value out/report/report.json n)" "$rows"
  same "$(value out/report/report.json threshold_source)" "best F1 on validation, stored in the model"
  grep -q "$trained of these clusters are in the training split" out/report/report.html
}

a_second_call_does_nothing() {
  "$scripts/evaluate.sh" "$model" "$clusters" "$sandbox/twice" -- --device cpu >first
  "$scripts/evaluate.sh" "$model" "$clusters" "$sandbox/twice" -- --device cpu >second
  grep -q '^report: ' first
  grep -q "^up to date: $sandbox/twice/report/report.html" second
}

new_clusters_are_not_warned_about_and_flags_reach_evaluate() {
  "$bin/simulate" --output new --clusters 300 --repeat-share 0 --seed 2 >/dev/null
  "$scripts/evaluate.sh" "$model" new -- --device cpu --threshold 0.25 2>words
  cat words
  if grep -q "flatter the model" words; then return 1; fi
  same "$(value evaluation/report/report.json data seen_in_training)" 0
  same "$(value evaluation/report/report.json threshold)" 0.25
}

without_the_training_data_nobody_looks() {
  "$bin/simulate" --output new --clusters 300 --seed 2 >/dev/null
  cp "$model" alone.onnx
  "$scripts/evaluate.sh" alone.onnx new out -- --device cpu 2>words
  cat words
  says "note: TRAINING is not set, so nobody looks for clusters that the training has seen"
  same "$(value out/report/report.json data seen_in_training)" None
  TRAINING=$sandbox/run/data "$scripts/evaluate.sh" alone.onnx "$clusters" out2 -- --device cpu 2>words
  says "are in the training split of \`$sandbox/run/data\` too"
}

wrong_calls_say_what_is_missing() {
  fails 2 "$scripts/evaluate.sh" "$model"
  says "error: expected MODEL and NPZ_DIR"
  fails 1 "$scripts/evaluate.sh" "$scripts/tests/foreign.onnx" "$clusters"
  says "can't read"
  mkdir empty
  fails 1 "$scripts/evaluate.sh" "$model" empty out
  test ! -e out/report
}

real_clusters_are_reported() {
  local real=$scripts/../../shared/data/real
  if [[ ! -d $real ]]; then
    echo "SKIPPED: no real data in \`$real\`" >&3
    return
  fi
  "$scripts/evaluate.sh" "$model" "$real/cc_e2p0_w16" out -- --device cpu 2>words
  cat words
  same "$(value out/report/report.json n)" 78
  same "$(value out/report/report.json data plane)" X
  test -s out/report/figures/clusters-best.png
  # Wider images are for another model.
  fails 1 "$scripts/evaluate.sh" "$model" "$real/cc_e2p0_w32" wide -- --device cpu
  says "128"
}

exec 3>&2
it "clusters that the training has seen are reported and warned about" old_clusters_are_reported_and_warned_about
it "a second call does nothing" a_second_call_does_nothing
it "new clusters are not warned about, and flags reach evaluate" new_clusters_are_not_warned_about_and_flags_reach_evaluate
it "without the training data nobody looks" without_the_training_data_nobody_looks
it "wrong calls say what is missing" wrong_calls_say_what_is_missing
it "real clusters are reported" real_clusters_are_reported
