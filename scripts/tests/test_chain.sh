# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# The real programs on a few simulated clusters.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
programs simulate prepare search train evaluate

tiny=("CONFIG=$scripts/configs/demo.json" TRIALS=2 EPOCHS=2 'model_parameters.space_options.n_filters=[8]')

clusters=$sandbox/clusters
"$bin/simulate" --output "$clusters" --clusters 1500 --planes U,X --columns 14 --width 16 --seed 42 >/dev/null
complete=$sandbox/complete

# copy: a finished run to play with; its times are kept, since they say what is up to date.
copy() { cp -a "$complete" out; }
times() { stat -c %Y.%y out/data/manifest.json out/study/best.onnx out/report/report.json | cut -d' ' -f1,2 | md5sum; }
value() { python3 -c "import json, sys; v = json.load(open(sys.argv[1]))
for key in sys.argv[2:]: v = v[key]
print(v)" "$@"; }

chain_ends_with_a_report() {
  "$scripts/run_v4.sh" DATA="$clusters" OUT="$complete" "${tiny[@]}" DEVICE=cpu >printed
  cat printed
  grep -q "report: $complete/report/report.html" printed
  local file
  for file in report.json report.txt report.html predictions.parquet; do test -s "$complete/report/$file"; done
  test -s "$complete/study/journal.log"
  test -s "$complete/study/trials/0001/history.csv"
}

second_run_does_nothing() {
  copy
  local before
  before=$(times)
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" DEVICE=cpu 2>words
  cat words
  if grep -q '^\$ ' words; then return 1; fi
  same "$(times)" "$before"
}

touched_test_set_redoes_only_evaluate() {
  copy
  local model report
  model=$(stat -c %y out/study/best.onnx)
  report=$(stat -c %y out/report/report.json)
  touch out/data/test/*.parquet
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" DEVICE=cpu 2>words
  cat words
  same "$(grep -c '^\$ ' words)" 1
  says "/evaluate --model"
  same "$(stat -c %y out/study/best.onnx)" "$model"
  [[ $(stat -c %y out/report/report.json) != "$report" ]]
}

more_trials_keep_those_that_are_done() {
  copy
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" TRIALS=3 DEVICE=cpu
  cmp out/study/trials/0000/model.onnx "$complete/study/trials/0000/model.onnx"
  test -s out/study/trials/0002/model.onnx
}

settings_reach_the_stages() {
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" PLANE=U MAX_SAMPLES=900 BALANCE=oversample THRESHOLD=0.5 TRIALS=1 DEVICE=cpu -j 2
  same "$(value out/report/report.json threshold)" 0.5
  grep -q '"U"' out/data/manifest.json
  grep -q oversample out/data/manifest.json
  test ! -e out/study/trials/0001
}

side_by_side_gives_every_trial_once() {
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" TRIALS=4 EPOCHS=1 DEVICE=cpu THREADS=1 -j 2
  same "$(find out/study/trials -name result.json | wc -l)" 4
}

killed_training_goes_on() {
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" EPOCHS=60 TRIALS=1 PATIENCE=60 DEVICE=cpu THREADS=1 >words 2>&1 &
  local pid=$! code=0
  for _ in {1..300}; do compgen -G 'out/study/trials/0000/checkpoint*' >/dev/null && break; sleep 0.1; done
  kill -TERM "$pid"
  wait "$pid" || code=$?
  cat words
  same "$code" 75
  test ! -e out/study/trials/0000/result.json
  "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" EPOCHS=60 TRIALS=1 PATIENCE=60 DEVICE=cpu THREADS=1
  test -s out/report/report.html
  same "$(($(wc -l <out/study/trials/0000/history.csv) - 1))" 60
}

wrong_value_is_refused_before_anything_runs() {
  fails 1 "$scripts/run_v4.sh" DATA="$clusters" OUT=out "${tiny[@]}" model_parameters.normalization=cubic
  says cubic
  says "then give the same command again"
  test ! -e out/data
  test ! -e out/data.partial
}

documented_command_lines_work() {
  local c=$scripts/configs/demo.json d=$clusters
  "$bin/prepare" --config "$c" --input "$d" --output S --duplicates keep --max-samples 2000
  "$bin/search" create --config "$complete/config.json" --study T
  "$bin/search" ask --study T
  "$bin/train" --trial T/trials/0000 --data S --device cpu
  "$bin/train" --study T --data S --device cpu
  "$bin/evaluate" --model T/trials/0000/model.onnx --data S/test --output R --threshold 0.5
  "$bin/search" status --study T
  "$bin/search" best --study T
  test -s R/report.html
}

it "the chain ends with a report" chain_ends_with_a_report
it "a second run does nothing" second_run_does_nothing
it "touching the test set redoes only evaluate" touched_test_set_redoes_only_evaluate
it "more trials keep those that are done" more_trials_keep_those_that_are_done
it "settings reach the stages" settings_reach_the_stages
it "side by side, every trial is trained once" side_by_side_gives_every_trial_once
it "a stopped training goes on where it was" killed_training_goes_on
it "a wrong value is refused before anything runs" wrong_value_is_refused_before_anything_runs
it "the documented command lines work" documented_command_lines_work
