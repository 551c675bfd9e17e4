#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# One job of the chain; submit.sh gives sbatch the rest (resources, array, dependency, log).
#
# Usage: sbatch job.sh SCRIPTS OUT STAGE [SHARDS]
#
# Two minutes before the time limit (submit.sh --warn) the job gets USR1; the stage then keeps its state and ends with
# exit code 75, and the job goes back into the queue. TERM comes with `scancel`, then the job ends, and with preemption,
# where Slurm itself puts it back.
set -uo pipefail
scripts=$1 out=$2 stage=$3 shards=${4:-}
most_requeues=200

shard=()
if [[ -n $shards ]]; then shard=("$SLURM_ARRAY_TASK_ID/$shards"); fi
job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
echo "job $job, start ${SLURM_RESTART_COUNT:-0}, node ${SLURMD_NODENAME:-?}" >&2

"$scripts/stage.sh" "$out" "$stage" "${shard[@]}" &
pid=$!
cancelled=''
trap 'kill -USR1 "$pid" 2>/dev/null' USR1
trap 'cancelled=1; kill -TERM "$pid" 2>/dev/null' TERM
code=0
wait "$pid" || code=$?
while kill -0 "$pid" 2>/dev/null; do code=0; wait "$pid" || code=$?; done

if ((code == 75)) && [[ -z $cancelled ]]; then
  if ((${SLURM_RESTART_COUNT:-0} >= most_requeues)); then
    echo "error: started $most_requeues times without an end; is the time limit shorter than an epoch?" >&2
    exit 1
  fi
  echo "job $job: stopped in order; back into the queue" >&2
  if ! scontrol requeue "$job"; then
    echo "error: can't requeue; submitting again goes on from here" >&2
    exit 1
  fi
  trap - TERM
  sleep 60 & # Slurm ends this job now
  wait
fi
exit "$code"
