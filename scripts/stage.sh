#!/usr/bin/env bash
# One stage of a run, as batch jobs start it; a person may, too.
#
# Usage: scripts/stage.sh OUT STAGE [SHARD]
#
#   OUT      folder of a run that slurm/submit.sh or htcondor/submit.sh has set up
#   STAGE    scan, plan, write (the phases of prepare; scan and write take SHARD as I/N), prepare (all phases),
#            study, train, evaluate; where jobs run without a shared file system, also trained and reported, which
#            only note that a job elsewhere did it
#
# The command lines come from pipeline.mk, by way of OUT/batch/stages.sh. Signals that a batch system sends before
# it stops a job (USR1, TERM) reach the program, which then keeps its state.
# Exit code: 0 done, 1 failed, 2 wrong command line, 75 stopped by a signal (the same command goes on).
set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
stage=$2 shard=${3:-}
cd -- "$1"
if [[ ! -r batch/stages.sh ]]; then
  echo "error: \`$1\` has no batch/stages.sh; submit the run with slurm/submit.sh or htcondor/submit.sh" >&2
  exit 1
fi
# shellcheck disable=SC1091 # written by submit.sh
. batch/stages.sh

# begun NAME, finished NAME: note the settings that a stage ran with, as the rules of pipeline.mk do.
begun() { mkdir -p .done && cp "batch/want/$1" ".done/$1.started"; }
finished() { cp ".done/$1.started" ".done/$1.$$.tmp" && mv ".done/$1.$$.tmp" ".done/$1"; }

# program FUNCTION: run it as a child that hears of signals, and return its exit code.
program() {
  local code=0 pid
  echo "stage $stage ${shard:-} on $(hostname), $(date -u +%Y-%m-%dT%H:%M:%SZ)" >&2
  ("$1") & # these functions begin with `exec`: the child is the program itself
  pid=$!
  trap 'kill -TERM "$pid" 2>/dev/null || true' USR1 TERM INT
  wait "$pid" || code=$?
  while kill -0 "$pid" 2>/dev/null; do code=0; wait "$pid" || code=$?; done
  trap - USR1 TERM INT
  return "$code"
}

case $stage in
  scan | write)
    [[ $shard =~ ^[0-9]+/[0-9]+$ ]] || { echo "error: $stage needs a shard, such as 0/4" >&2; exit 2; }
    program "prepare_$stage" ;;
  plan) program prepare_plan ;;
  prepare) program prepare_all ;;
  study)
    # The note is made anew only after a new preparation, so that equal splits redo no training.
    if [[ ! -e .done/prepare || data/manifest.json -nt .done/prepare ]]; then
      note_training_data
      [[ -e .done/prepare.started ]] || begun prepare
      finished prepare
    fi
    set_aside_study
    begun study
    program search_create
    finished study
    begun train
    rm -f .done/train ;;
  train)
    program train_study
    finished train ;; # this worker saw the end of the budget, and no trial alive
  evaluate)
    if [[ ! -e .done/train ]] || ! cmp -s .done/train.started .done/train; then
      echo "error: no worker has seen the end of the study; its trials:" >&2
      study_status >&2 || true
      echo "  the workers' logs are in $PWD/batch/logs; after a remedy, submit the same command: it goes on from here" >&2
      exit 1
    fi
    begun evaluate
    program evaluate_best
    finished evaluate
    print_summary ;;
  trained) finished train ;;
  reported)
    begun evaluate
    finished evaluate
    print_summary ;;
  *) echo "error: there is no stage \`$stage\`; stage.sh --help names them" >&2; exit 2 ;;
esac
