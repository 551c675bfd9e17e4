# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# Batch launchers: checks before submission, dry runs, and a real Slurm of two nodes where this is root.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
programs simulate prepare search train evaluate

demo=$scripts/configs/demo.json
tiny=(TRIALS=2 EPOCHS=2 'model_parameters.space_options.n_filters=[8]')
clusters=$sandbox/clusters
"$bin/simulate" --output "$clusters" --clusters 1500 --planes U,X --columns 14 --width 16 --seed 42 >/dev/null

# --- Before anything is submitted -----------------------------------------------------------------

dry_run_prints_the_chain_and_writes_nothing() {
  "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=out "${tiny[@]}" --workers 3 --shards 5 --time 01:00:00 --partition short -n >printed
  cat printed
  same "$(grep -c '^sbatch ' printed)" 6
  same "$(grep -o 'mt-identifier\\ [a-z]*' printed | cut -d' ' -f2 | tr '\n' ' ')" "scan plan write study train evaluate "
  same "$(grep -c -- '--partition=short' printed)" 6
  same "$(grep -c -- '--signal=B:USR1@120' printed)" 6
  same "$(grep -c -- '--array=0-4' printed)" 2
  same "$(grep -c -- '--array=0-2' printed)" 1
  same "$(grep -c -- '--dependency=afterok' printed)" 4
  same "$(grep -c -- '--dependency=afterany:\\<train\\>' printed)" 1
  grep -qF "$bin/train --study $PWD/out/study --data $PWD/out/data --device cpu --threads 2" printed
  test ! -e out
}

command_lines_are_those_of_one_machine() {
  "$scripts/run_v4.sh" CONFIG="$demo" DATA="$clusters" OUT=out "${tiny[@]}" DEVICE=cpu THREADS=2 THRESHOLD=purity=0.9 -n | sed 's/ *$//' >from_make
  "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=out "${tiny[@]}" THRESHOLD=purity=0.9 -n | sed -n 's/^    //p' | sed 's/ *$//' >from_slurm
  cat from_make from_slurm
  same "$(grep -v /prepare from_slurm)" "$(grep -v /prepare from_make)"
  same "$(sed -n 's/ *--phase plan$//p' from_slurm)" "$(grep /prepare from_make)"
}

htcondor_gets_a_dag_with_the_same_command_lines() {
  "$scripts/htcondor/submit.sh" "$demo" DATA="$clusters" OUT=out "${tiny[@]}" --workers 2 --shards 5 --time 01:30:00 -n >printed
  cat printed
  same "$(awk '/^JOB/ { print $2 }' printed | tr '\n' ' ')" "scan plan write study train0 train1 evaluate "
  same "$(awk '/^PARENT/ { print $2, $3, $4, $5 }' printed | tr '\n' ';')" \
    "scan CHILD plan ;plan CHILD write ;write CHILD study ;study CHILD train0 ;study CHILD train1 ;train0 train1 CHILD evaluate;"
  same "$(grep -c 'flavour="longlunch"' printed)" 7
  same "$(grep -c 'seconds="5280"' printed)" 7
  "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=out "${tiny[@]}" -n >from_slurm
  same "$(grep '^    ' printed)" "$(grep '^    ' from_slurm)"
  "$scripts/htcondor/submit.sh" "$demo" DATA="$clusters" OUT=out "${tiny[@]}" --transfer -n >printed
  cat printed
  same "$(awk '/^JOB/ { print $2 }' printed | tr '\n' ' ')" "prepare train evaluate "
  grep -qF "inputs=\"$clusters\" outputs=\"data\"" printed
  grep -qF "mt-identifier/bin/prepare --config ./config.json --output ./data --threads 2  --input clusters" printed
  fails 2 "$scripts/htcondor/submit.sh" "$demo" DATA="$clusters" OUT=out --transfer --workers 2 -n
  says "a study is shared by its files"
  fails 1 "$scripts/htcondor/submit.sh" "$demo" DATA="$clusters" OUT="a b" -n
  says "use a folder without blanks"
  test ! -e out
}

gpu_options_become_requests() {
  # A library that seems to have CUDA, and a Slurm that seems to have GPUs.
  mkdir lib fake
  cp "$(find "$scripts/../.cache/onnxruntime" -name libonnxruntime.so | head -1)" lib/
  touch lib/libonnxruntime_providers_cuda.so
  printf '#!/bin/sh\necho gpu:h100:4\n' >fake/sinfo
  chmod +x fake/sinfo
  PATH=$PWD/fake:$PATH ORT_DYLIB_PATH=$PWD/lib/libonnxruntime.so \
    "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=out --gpu --workers-per-gpu 3 -n >printed
  cat printed
  same "$(grep -c -- '--gres=gpu:1' printed)" 2
  grep -qF -- '--device cuda:0 --threads 2 --workers 3' printed
}

# refused MESSAGE WORD...: the launcher ends with 1, says this, and leaves no folder but OUT.
refused() {
  local message=$1
  shift
  fails 1 "$scripts/slurm/submit.sh" "$demo" OUT=out -n "$@"
  says "$message"
}

each_finding_has_its_way_out() {
  local first
  first=$(find "$clusters" -name '*planeX.npz' | head -1)
  refused "there is no folder \`$PWD/nowhere\`" DATA=nowhere
  refused "holds images of 128 × 16, but \`input_shape\` of the config says 128 × 32" DATA="$clusters" WIDTH=32
  says "set WIDTH=16"
  refused "key \`model_parameters.normalization\`: unknown variant \`cubic\`" DATA="$clusters" model_parameters.normalization=cubic
  says "then give the same command again"
  refused "free, but the splits and one trial may need" DATA="$clusters" 'model_parameters.space_options.n_filters=[9999999]'
  ORT_DYLIB_PATH=$PWD/none.so refused "ORT_DYLIB_PATH names \`$PWD/none.so\`, which is no file" DATA="$clusters"
  echo text >broken.so
  ORT_DYLIB_PATH=$PWD/broken.so refused "can't load ONNX Runtime from \`$PWD/broken.so\`" DATA="$clusters"
  refused "no node that \`sinfo\` lists has a GPU" DATA="$clusters" --gpu
  mkdir bad
  head -c 3000 "$first" >bad/cut_planeX.npz
  refused "cut_planeX.npz" DATA=bad
  says "inspect"
  fails 2 "$scripts/slurm/submit.sh" DATA="$clusters"
  says "no config given"
  fails 2 "$scripts/slurm/submit.sh" v4 DATA="$clusters" WORKERS=3
  says "give --workers N (jobs), or --workers-per-gpu N"
  fails 2 "$scripts/slurm/submit.sh" v4 DATA="$clusters" --workers none
  fails 2 "$scripts/slurm/submit.sh" v4 DATA="$clusters" DEVICE=cuda:1
  fails 2 "$scripts/slurm/submit.sh" v4 DATA="$clusters" --colour red
}

one_machine_is_checked_too() {
  fails 1 "$scripts/run_v4.sh" CONFIG="$demo" DATA="$clusters" OUT=out WIDTH=32
  says "set WIDTH=16"
  test ! -e out/data.partial
}

it "a dry run prints the chain and writes nothing" dry_run_prints_the_chain_and_writes_nothing
it "the command lines are those of one machine" command_lines_are_those_of_one_machine
it "HTCondor gets a DAG with the same command lines" htcondor_gets_a_dag_with_the_same_command_lines
it "GPU options become requests" gpu_options_become_requests
it "each finding before submission has its way out" each_finding_has_its_way_out
it "a run on one machine is checked too" one_machine_is_checked_too

# --- The real thing -------------------------------------------------------------------------------

daemons=$(command -v munged slurmctld slurmd | wc -l)
if [[ $(id -u) != 0 || $daemons != 3 ]]; then
  echo "SKIPPED: the chain on a real Slurm; it needs root and the packages slurm-wlm and munge"
  exit 0
fi
cluster=$sandbox/slurm
chmod 755 "$sandbox"
"$scripts/tests/slurm_cluster.sh" up "$cluster"
trap '"$scripts/tests/slurm_cluster.sh" down "$cluster"; rm -rf "$sandbox"' EXIT
. "$cluster/env"

# drained SECONDS: wait until the queue is empty.
drained() {
  local end=$((SECONDS + $1))
  while [[ -n $(squeue --noheader) ]]; do
    if ((SECONDS > end)); then squeue; return 1; fi
    sleep 0.3
  done
}
# once OUT TRIALS: every trial of the budget is complete, and told once.
once() {
  same "$(find "$1/study/trials" -name result.json | wc -l)" "$2"
  python3 "$scripts/tests/journal_check.py" "$1/study/journal.log" "$2"
}

small=(--cpus 1 --memory 500M --time 00:10:00 --shards 2)
long=(TRIALS=2 EPOCHS=8 PATIENCE=8 'model_parameters.space_options.n_filters=[8]' THREADS=1)

two_studies_at_once_one_stopped_and_requeued_while_a_third_chain_fails() {
  local job last
  # Alone, this file is what the chain is about; it is mended in the next test.
  cp -r "$clusters" damaged
  last=$(find damaged -name '*planeX.npz' | sort | tail -1)
  cp "$last" whole.npz
  head -c 3000 whole.npz >"$last"
  "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=one "${long[@]}" "${small[@]}"
  "$scripts/slurm/submit.sh" "$demo" DATA=damaged OUT=bad "${tiny[@]}" ON_BAD_FILE=fail "${small[@]}"
  "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=two "${tiny[@]}" TRIALS=4 SEED=7 "${small[@]}" --workers 2
  fails 1 "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=two "${tiny[@]}" TRIALS=4 SEED=7 "${small[@]}"
  says "jobs of this run are in the queue already"
  for _ in {1..300}; do [[ -s one/study/trials/0000/history.csv ]] && break; sleep 0.1; done
  timeout 120 "$bin/search" status --watch --study one/study >watched &
  local watcher=$!
  job=$(squeue --noheader --states=R --format='%A %o' | awk '/ train/ && / '"${PWD//\//\\/}"'\/one / { print $1; exit }')
  scancel --signal=USR1 --batch "$job"
  for _ in {1..100}; do grep -q "back into the queue" one/batch/logs/train-*.log && break; sleep 0.1; done
  for _ in {1..100}; do [[ $(squeue --noheader --jobs="$job" --format=%t) == PD ]] && break; sleep 0.1; done
  sleep 1.5 # within the second of its end, Slurm would refuse the job
  scontrol update "jobid=$job" StartTime=now # else Slurm waits two minutes
  drained 120
  tail -n 5 one/batch/logs/*.log two/batch/logs/*.log bad/batch/logs/*.log
  grep -q "start 1, node" one/batch/logs/train-*.log
  wait "$watcher" # it ends by itself when the study does
  grep -q "study: 2 complete (budget 2)" watched
  once one 2
  once two 4
  test -s one/report/report.html
  test -s two/report/report.html
  grep -q "no worker has seen the end of the study" bad/batch/logs/evaluate-*.log
  test ! -e bad/study
}

reports_equal_those_of_one_machine_and_the_failed_chain_goes_on() {
  local before=$sandbox/two_studies_at_once_one_stopped_and_requeued_while_a_third_chain_fails
  cd "$before"
  cat whole.npz >"$(find damaged -name '*planeX.npz' | sort | tail -1)"
  "$scripts/slurm/submit.sh" "$demo" DATA=damaged OUT=bad "${tiny[@]}" ON_BAD_FILE=fail "${small[@]}"
  "$scripts/run_v4.sh" CONFIG="$demo" DATA="$clusters" OUT=local "${long[@]}" DEVICE=cpu >/dev/null
  cmp local/study/trials/0000/model.onnx one/study/trials/0000/model.onnx
  cmp local/study/trials/0001/model.onnx one/study/trials/0001/model.onnx
  cmp local/study/best.onnx one/study/best.onnx
  cmp local/report/predictions.parquet one/report/predictions.parquet
  # What the chain has made is up to date for one machine, and for another submission.
  "$scripts/run_v4.sh" CONFIG="$demo" DATA="$clusters" OUT=one "${long[@]}" DEVICE=cpu 2>words
  says "up to date: $before/one"
  fails 0 "$scripts/slurm/submit.sh" "$demo" DATA="$clusters" OUT=one "${long[@]}" "${small[@]}"
  says "up to date: $before/one"
  drained 90
  tail -n 5 bad/batch/logs/*.log
  once bad 2
  test -s bad/report/report.html
}

it "two studies at once, one stopped and requeued, while a third chain fails" two_studies_at_once_one_stopped_and_requeued_while_a_third_chain_fails
it "reports equal those of one machine, and the failed chain goes on" reports_equal_those_of_one_machine_and_the_failed_chain_goes_on
