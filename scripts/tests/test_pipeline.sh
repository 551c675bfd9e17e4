# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# The rules of pipeline.mk with programs that only note how they were called.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Programs that append their command line to `calls` and write the files that the rules look at.
mkdir "$sandbox/bin"
cat >"$sandbox/bin/prepare" <<'STUB'
#!/usr/bin/env bash
set -euo pipefail
# What is asked before a run; it leaves no trace.
case "$(basename "$0") $*" in
  "prepare inspect "*) echo "a_planeX.npz X 1 ${SHAPE:-128 × 16} <f4"; exit ;;
  *" --dry-run"*) exit ;;
esac
echo "$(basename "$0") $*" >>"$CALLS"
value() { local before=; for word in "${all[@]}"; do [[ $before == "$1" ]] && echo "$word"; before=$word; done; }
all=("$@")
if [[ $(basename "$0") == "${FAIL:-}" ]]; then echo "error: asked to fail" >&2; exit 1; fi
case $(basename "$0") in
  prepare)
    out=$(value --output)
    mkdir -p "$out"/{train,validation,test}
    for split in train validation test; do cp "$(value --config)" "$out/$split/part-0000-0000.parquet"; done
    digest=$(python3 -c "import json, sys; c = json.load(open(sys.argv[1])); print(json.dumps([c['plane'], c['dataset_parameters']]))" "$(value --config)" | sha256sum | cut -c1-8)
    echo "{\"digest\": \"$digest\", \"preparation\": \"$RANDOM\"}" >"$out/manifest.json" ;;
  search)
    mkdir -p "$(value --study)"
    cp "$(value --config)" "$(value --study)/study.json" ;;
  train)
    if [[ -n ${SLOW:-} ]]; then
      trap 'echo stopped >>"$CALLS"; exit 75' TERM
      echo started >>"$CALLS"
      for _ in {1..200}; do sleep 0.1; done
    fi
    echo model >"$(value --study)/best.onnx" ;;
  evaluate)
    mkdir -p "$(value --output)"
    echo '{"n": 100, "prevalence": 0.14, "f1": {"main_track": 0.9, "macro": 0.9, "weighted": 0.9}}' >"$(value --output)/report.json" ;;
esac
STUB
chmod +x "$sandbox/bin/prepare"
for name in search train evaluate; do cp "$sandbox/bin/prepare" "$sandbox/bin/$name"; done
export MTID_BIN=$sandbox/bin CALLS=$sandbox/calls
ORT_DYLIB_PATH=$(find "$scripts/../.cache/onnxruntime" -name libonnxruntime.so -print -quit)
export ORT_DYLIB_PATH

# A folder with input.
input() { mkdir -p "$1" && head -c 2000 /dev/zero >"$1/a_planeX.npz"; }
# run SETTINGS...: one run from scratch notes; leaves the names of the called programs in `called`.
run() {
  : >"$CALLS"
  "$scripts/run_v4.sh" "$@"
  called=$(cut -d' ' -f1 "$CALLS" | tr '\n' ' ')
}

runs_every_stage_in_order() {
  input clusters
  run DATA=clusters OUT=out
  same "$called" "prepare search train evaluate "
  same "$(sed "s|$PWD|.|g" "$CALLS")" "prepare --config ./out/config.json --output ./out/data
search create --config ./out/config.json --study ./out/study
train --study ./out/study --data ./out/data
evaluate --model ./out/study/best.onnx --data ./out/data/test --output ./out/report --overwrite"
}

second_run_does_nothing() {
  input clusters
  run DATA=clusters OUT=out
  run DATA=clusters OUT=out 2>words
  same "$called" ""
  same "$(cat words)" "up to date: $PWD/out"
  run DATA="$PWD/clusters" OUT="$PWD/out" DEVICE=cpu -j 3
  same "$called" ""
}

touched_test_set_redoes_only_evaluate() {
  input clusters
  run DATA=clusters OUT=out
  touch out/data/test/part-0000-0000.parquet
  run DATA=clusters OUT=out
  same "$called" "evaluate "
  touch out/data/test
  run DATA=clusters OUT=out
  same "$called" "evaluate "
  run DATA=clusters OUT=out
  same "$called" ""
}

another_test_set_redoes_only_evaluate() {
  input clusters
  run DATA=clusters OUT=out
  mkdir -p "other set/test"
  touch "other set/test/part-0000-0000.parquet"
  run DATA=clusters OUT=out TEST="other set/test"
  same "$called" "evaluate "
  grep -F -- '--data '"$PWD/other set/test" "$CALLS"
  run DATA=clusters OUT=out TEST="other set/test"
  same "$called" ""
  sleep 0.01
  touch "other set/test/part-0000-0000.parquet"
  run DATA=clusters OUT=out TEST="other set/test"
  same "$called" "evaluate "
}

new_or_touched_input_redoes_prepare_but_equal_splits_no_training() {
  input clusters
  run DATA=clusters OUT=out
  touch clusters/a_planeX.npz
  run DATA=clusters OUT=out
  same "$called" "prepare evaluate "
  grep -q -- '^prepare .*--overwrite' "$CALLS"
}

each_setting_redoes_what_depends_on_it() {
  input clusters
  run DATA=clusters OUT=out
  run DATA=clusters OUT=out THRESHOLD=purity=0.95
  same "$called" "evaluate "
  run DATA=clusters OUT=out THRESHOLD=purity=0.95 EPOCHS=3
  same "$called" "search train evaluate "
  same "$(ls -d out/study.old-*)" out/study.old-1
  run DATA=clusters OUT=out THRESHOLD=purity=0.95 EPOCHS=3 TRIALS=30
  same "$called" "search train evaluate "
  same "$(ls -d out/study.old-*)" out/study.old-1 # a larger budget keeps the study
  run DATA=clusters OUT=out THRESHOLD=purity=0.95 EPOCHS=3 TRIALS=30 PRECISION=tf32
  same "$called" "search train evaluate "
  run DATA=clusters OUT=out THRESHOLD=purity=0.95 EPOCHS=3 TRIALS=30 PRECISION=tf32 BALANCE=undersample
  same "$called" "prepare search train evaluate "
  same "$(find out -maxdepth 1 -name 'study.old-*' | sort | tr '\n' ' ')" "out/study.old-1 out/study.old-2 out/study.old-3 "
}

settings_reach_config_and_stages() {
  input clusters
  SHAPE='128 × 32' run DATA=clusters OUT=out PLANE=X WIDTH=32 MAX_SAMPLES=500 SEED=7 BALANCE=oversample BALANCE_SCOPE=all SPLIT_BY=file \
    TRIALS=5 EPOCHS=2 BATCH_SIZE=64 PATIENCE=1 OBJECTIVE=val_loss NORMALIZATION=raw PRECISION=fp16 DEVICE=cpu \
    WORKERS=2 THREADS=1 MEMORY=8G DEVICE_MEMORY=500MB THRESHOLD=efficiency=0.9 'model_parameters.space_options.n_filters=[16, 32]'
  cat "$CALLS"
  grep -- '^prepare .*--balance-scope all --split-by file --threads 1 *$' "$CALLS"
  grep -- '^train .*--device cpu --precision fp16 --threads 1 --workers 2 --memory 8G --device-memory 500MB *$' "$CALLS"
  grep -- '^evaluate .*--threshold efficiency=0.9 --device cpu --threads 1 *$' "$CALLS"
  python3 - <<'PY'
import json
config = json.load(open("out/config.json"))
data, model = config["dataset_parameters"], config["model_parameters"]
assert config["plane"] == "X" and data["max_samples"] == 500 and data["random_seed"] == 7
assert data["balance_data"] is True and data["balance_method"] == "oversample"
assert model["input_shape"] == [128, 32, 1] and model["hp_max_evals"] == 5 and model["epochs"] == 2
assert model["batch_size"] == 64 and model["early_stopping"]["patience"] == 1
assert model["objective"] == "val_loss" and model["normalization"] == "raw"
assert model["space_options"]["n_filters"] == [16, 32] and model["space_options"]["dropout_rate"] == [0.1, 0.2, 0.3, 0.4]
PY
}

jobs_become_workers() {
  input clusters
  run DATA=clusters OUT=out -j4
  grep -- '^train .*--workers 4' "$CALLS"
  run DATA=clusters OUT=out2 -j 3
  grep -- '^train .*--workers 3' "$CALLS"
}

own_config_with_relative_folders_and_unknown_keys() {
  mkdir -p "my project"
  input "my project/es"
  input "my project/cc"
  echo '{"plane": "X", "data_directories": ["es", "cc"], "my_notes": {"a": 1}, "dataset_parameters": {}}' >"my project/c.json"
  run CONFIG="my project/c.json" OUT="my project/out"
  same "$called" "prepare search train evaluate "
  grep -F '"my_notes"' "my project/out/config.json"
  grep -F "\"$PWD/my project/es\"" "my project/out/config.json"
  run CONFIG="my project/c.json" OUT="my project/out"
  same "$called" ""
}

names_with_shell_characters() {
  # shellcheck disable=SC2016 # the dollar is part of the name
  local odd='a b $HOME '"'q'"' # (1)'
  input "$odd/in"
  run DATA="$odd/in" OUT="$odd/out"
  same "$called" "prepare search train evaluate "
  test -e "$odd/out/report/report.json"
  run DATA="$odd/in" OUT="$odd/out"
  same "$called" ""
}

dry_run_prints_and_writes_nothing() {
  input clusters
  : >"$CALLS"
  "$scripts/run_v4.sh" DATA=clusters OUT=out -n >printed
  cat printed
  same "$(wc -l <printed)" 4
  grep -q "^$MTID_BIN/prepare --config $PWD/out/config.json --output $PWD/out/data" printed
  same "$(cat "$CALLS")" ""
  test ! -e out
  run DATA=clusters OUT=out
  "$scripts/run_v4.sh" DATA=clusters OUT=out EPOCHS=2 -n | tee printed
  same "$(cut -d' ' -f1,2 printed | sed 's|.*/||' | tr '\n' ' ')" "search create train --study evaluate --model "
  run DATA=clusters OUT=out # the dry run left no trace
  same "$called" ""
}

preparation_that_failed_with_other_settings_may_replace_the_old_splits() {
  input clusters
  run DATA=clusters OUT=out
  FAIL=prepare fails 1 "$scripts/run_v4.sh" DATA=clusters OUT=out SEED=7
  run DATA=clusters OUT=out SEED=7
  grep -q -- '^prepare .*--overwrite' "$CALLS"
}

finished_run_has_nothing_left_in_a_dry_run() {
  input clusters
  run DATA=clusters OUT=out
  "$scripts/run_v4.sh" DATA=clusters OUT=out -n >printed
  same "$(cat printed)" ""
}

failed_stage_ends_the_run_and_goes_on_there() {
  input clusters
  : >"$CALLS"
  FAIL=train fails 1 "$scripts/run_v4.sh" DATA=clusters OUT=out
  says "asked to fail"
  says "the same command goes on from here"
  run DATA=clusters OUT=out
  same "$called" "train evaluate "
}

signal_stops_the_stage_in_order() {
  input clusters
  : >"$CALLS"
  SLOW=1 "$scripts/run_v4.sh" DATA=clusters OUT=out >words 2>&1 &
  local pid=$! code=0
  for _ in {1..100}; do grep -q started "$CALLS" && break; sleep 0.1; done
  kill -TERM "$pid"
  wait "$pid" || code=$?
  cat words "$CALLS"
  same "$code" 75
  same "$(tail -1 "$CALLS")" stopped
  run DATA=clusters OUT=out
  same "$called" "train evaluate "
}

moved_away_input_keeps_the_splits() {
  input clusters
  run DATA=clusters OUT=out
  rm -r clusters
  run DATA=clusters OUT=out
  same "$called" ""
  run DATA=clusters OUT=out EPOCHS=5
  same "$called" "search train evaluate "
}

removed_results_are_made_again() {
  input clusters
  run DATA=clusters OUT=out
  rm out/report/report.json
  run DATA=clusters OUT=out
  same "$called" "evaluate "
  rm out/study/best.onnx
  run DATA=clusters OUT=out
  same "$called" "train evaluate "
}

bad_settings_are_refused_by_name() {
  input clusters
  fails 2 "$scripts/run_v4.sh" DATA=clusters TRAILS=5
  says 'unknown setting `TRAILS`'
  fails 2 "$scripts/run_v4.sh" DATA=clusters TRIALS=many
  says 'TRIALS=many is not possible'
  fails 2 "$scripts/run_v4.sh" DATA=clusters PLANE=Y
  fails 2 "$scripts/run_v4.sh" DATA=clusters DEVICE=gpu
  fails 2 "$scripts/run_v4.sh" DATA=clusters THRESHOLD=2
  fails 2 "$scripts/run_v4.sh" clusters
  fails 1 "$scripts/run_v4.sh" DATA=clusters OUT=out model_parameters.epoch=3
  says 'did you mean `epochs`?'
  test ! -e runs
}

missing_input_is_told_with_the_command() {
  fails 1 "$scripts/run_v3.sh" OUT=out
  says 'run_v3.sh DATA=/folder/with/npz/files'
  fails 1 "$scripts/run_v3.sh" DATA=nowhere OUT=out
  says "there is no folder \`$PWD/nowhere\`"
  mkdir empty
  fails 1 "$scripts/run_v3.sh" DATA=empty OUT=out
  says "no .npz file in \`$PWD/empty\`"
  fails 1 "$scripts/run_v3.sh" CONFIG=none.json OUT=out
  says 'there is no config `none.json`'
  echo '{"plane": ' >broken.json
  fails 1 "$scripts/run_v3.sh" CONFIG=broken.json OUT=out
  says 'broken.json` is not JSON'
}

four_versions_have_their_configs() {
  input clusters
  for version in v1 v2 v3 v4; do
    : >"$CALLS"
    "$scripts/run_$version.sh" DATA=clusters OUT="out $version"
    same "$(wc -l <"$CALLS")" 4
  done
  same "$(python3 -c "
import json
print([json.load(open(f'out v{n}/config.json'))['model_parameters']['hp_max_evals'] for n in (1, 2, 3, 4)])")" "[10, 20, 10, 25]"
}

it "the stages run in order, with the documented command lines" runs_every_stage_in_order
it "a second run does nothing" second_run_does_nothing
it "touching the test set redoes only evaluate" touched_test_set_redoes_only_evaluate
it "another test set redoes only evaluate" another_test_set_redoes_only_evaluate
it "touched input redoes prepare; equal splits keep the training" new_or_touched_input_redoes_prepare_but_equal_splits_no_training
it "each setting redoes what depends on it" each_setting_redoes_what_depends_on_it
it "settings reach the config and the stages" settings_reach_config_and_stages
it "-j becomes workers" jobs_become_workers
it "an own config keeps its folders and unknown keys" own_config_with_relative_folders_and_unknown_keys
it "names with spaces, quotes and dollars work" names_with_shell_characters
it "a dry run prints the commands and writes nothing" dry_run_prints_and_writes_nothing
it "a preparation that failed may replace the old splits" preparation_that_failed_with_other_settings_may_replace_the_old_splits
it "a finished run has nothing left in a dry run" finished_run_has_nothing_left_in_a_dry_run
it "a failed stage ends the run, and the next run goes on there" failed_stage_ends_the_run_and_goes_on_there
it "a signal stops the stage in order, with exit code 75" signal_stops_the_stage_in_order
it "input that was moved away keeps the splits" moved_away_input_keeps_the_splits
it "removed results are made again" removed_results_are_made_again
it "bad settings are refused by name" bad_settings_are_refused_by_name
it "missing input is told with the command to run" missing_input_is_told_with_the_command
it "v1 to v4 have their own configs" four_versions_have_their_configs
