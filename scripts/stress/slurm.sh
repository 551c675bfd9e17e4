#!/usr/bin/env bash
# The chain on a real Slurm under everything that happens to jobs. Usage: scripts/stress/slurm.sh [FOLDER]
#
# Starts a Slurm of two nodes on this machine (root, packages slurm-wlm and munge), submits two studies at once, and then:
# a shard fails and the chain is submitted again; a worker is told to stop and goes back into the queue; a node dies with
# its worker (kill -9 of slurmd and of all its processes); a worker is cancelled. At the end every trial of each budget
# must be complete exactly once, every model and the report equal to those of a run on one machine.
# Takes about 5 minutes on two cores; README.md beside this file records what came out.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
case ${1:-} in -h | --help) help_of "$0"; exit ;; esac
[[ $(id -u) == 0 ]] || die "this needs root" "it starts a Slurm of its own"
[[ $(command -v munged slurmctld slurmd | wc -l) == 3 ]] || die "no Slurm here" "apt-get install --no-install-recommends slurm-wlm munge"
build_binaries
export MTID_BIN=$bin

folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder"
chmod 755 "$folder"
cd "$folder"
cluster=$folder/slurm
begin=$SECONDS
note() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }

"$root/scripts/tests/slurm_cluster.sh" up "$cluster"
trap '"$root/scripts/tests/slurm_cluster.sh" down "$cluster"' EXIT
# shellcheck disable=SC1091 # written by slurm_cluster.sh
. "$cluster/env"
note "$(sinfo --version), $(nproc) cores, two nodes"

"$bin/simulate" --output clusters --clusters 3000 --planes X --columns 14 --width 16 --seed 42 >/dev/null
demo=$root/scripts/configs/demo.json
# With a seed the first ten trials of a study have the same parameters in any order, so all models can be compared.
common=(TRIALS=8 EPOCHS=12 PATIENCE=12 'model_parameters.space_options.n_filters=[8, 12]' THREADS=1)
jobs=(--cpus 1 --memory 500M --time 01:00:00 --shards 3)

# until_true SECONDS COMMAND...
until_true() {
  local end=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    if ((SECONDS > end)); then squeue >&2; die "waited too long for: $*"; fi
    sleep 0.3
  done
}
task_of() { squeue --noheader --array --states=R --format='%K %A %F %N %o' | awk -v out="$folder/$1" -v node="$2" '$0 ~ out " train" && $4 == node { print $3 "_" $1; exit }'; }
trains() { [[ -n $(task_of "$1" "$2") ]]; }
epochs() { [[ $(cat "$1"/study/trials/*/history.csv 2>/dev/null | wc -l) -ge $2 ]]; }
# Requeued jobs wait two minutes by default; here they need not. Within the second of their end Slurm would refuse them.
declare -A hurried=()
hurry() {
  local job
  for job in $(squeue --noheader --array --states=PD --format='%i %r' | awk '$2 == "BeginTime" { print $1 }'); do
    [[ -z ${hurried[$job]:-} ]] || continue
    sleep 2
    scontrol update "jobid=$job" StartTime=now || true
    hurried[$job]=1
  done
}
empty() { hurry; [[ -z $(squeue --noheader) ]]; }

# processes_on NODE: what Slurm runs there for this cluster, and its slurmd.
processes_on() {
  cat "$cluster/run/slurmd.$1.pid"
  local folder words
  for folder in /proc/[0-9]*; do
    words=$( (tr '\0' '\n' <"$folder/environ") 2>/dev/null) || continue
    if grep -qx "SLURMD_NODENAME=$1" <<<"$words" && grep -qx "SLURM_CONF=$SLURM_CONF" <<<"$words"; then
      echo "${folder#/proc/}"
    fi
  done
}

# --- A shard fails; the same command goes on ------------------------------------------------------
last=$(find clusters -name '*planeX.npz' | sort | tail -1)
cp "$last" whole.npz
head -c 3000 whole.npz >"$last"
"$root/scripts/slurm/submit.sh" "$demo" DATA=clusters OUT=a "${common[@]}" ON_BAD_FILE=fail "${jobs[@]}" --workers 3 >/dev/null 2>&1
until_true 60 empty
if [[ -e a/study ]]; then die "a study was made although a shard had failed"; fi
note "a bad file: nothing was made of it ($(grep -h '^error' a/batch/logs/{scan,plan,write}-*.log 2>/dev/null | head -1))"
cp whole.npz "$last"

# --- Two studies at once --------------------------------------------------------------------------
"$root/scripts/slurm/submit.sh" "$demo" DATA=clusters OUT=a "${common[@]}" ON_BAD_FILE=fail "${jobs[@]}" --workers 3 >/dev/null 2>&1
"$root/scripts/slurm/submit.sh" "$demo" DATA=clusters OUT=b "${common[@]}" SEED=7 "${jobs[@]}" --workers 1 >/dev/null 2>&1
note "submitted study a (3 workers) and study b (1 worker), 8 trials of 12 epochs each"

until_true 120 epochs a 3
until_true 60 trains a n1
task=$(task_of a n1)
scancel --signal=USR1 --batch "$task"
until_true 30 grep -q "back into the queue" a/batch/logs/train-*.log
note "USR1 to worker $task of a: stopped with code 75 and went back into the queue"

until_true 120 epochs a 8
until_true 60 trains a n2
task=$(task_of a n2)
mapfile -t victims < <(processes_on n2)
kill -9 "${victims[@]}" 2>/dev/null || true
note "kill -9 of node n2 (slurmd and ${#victims[@]} processes), worker $task of a in the middle of a trial"
node_is_down() { [[ $(sinfo --noheader --Node --nodes=n2 --format=%T) == down* ]]; }
until_true 60 node_is_down
note "Slurm saw n2 go down; $(squeue --noheader --array --states=PD --format=%i | wc -l) tasks wait"
"$root/scripts/tests/slurm_cluster.sh" node "$cluster" n2
node_is_up() { [[ $(sinfo --noheader --Node --nodes=n2 --format=%T) =~ ^(idle|mixed|allocated)$ ]]; }
until_true 60 node_is_up
note "n2 is back"
hurry

any_worker() { hurry; trains a n1 || trains a n2; }
until_true 120 any_worker
task=$(task_of a n1)
task=${task:-$(task_of a n2)}
scancel "$task"
note "scancel of worker $task of a"
until_true 900 empty
note "the queue is empty"

# --- What is left ---------------------------------------------------------------------------------
for run in a b; do
  python3 "$root/scripts/tests/journal_check.py" "$run/study/journal.log" 8
done
# shellcheck disable=SC2126 # lines over all files
note "starts of workers of a: $(grep -h '^stage train' a/batch/logs/train-*.log | wc -l), trials gone on from a checkpoint: $(grep -l . a/study/trials/*/train.log | xargs grep -c '^trial [0-9]* on ' | awk -F: '$2 > 1' | wc -l)"
"$root/scripts/run_v4.sh" CONFIG="$demo" DATA=clusters OUT=a1 "${common[@]}" ON_BAD_FILE=fail DEVICE=cpu -j 2 >/dev/null 2>&1
"$root/scripts/run_v4.sh" CONFIG="$demo" DATA=clusters OUT=b1 "${common[@]}" SEED=7 DEVICE=cpu >/dev/null 2>&1
for run in a b; do
  for trial in {0000..0007}; do
    cmp "$run/study/trials/$trial/model.onnx" "${run}1/study/trials/$trial/model.onnx"
  done
  cmp "$run/study/best.onnx" "${run}1/study/best.onnx"
  cmp "$run/report/predictions.parquet" "${run}1/report/predictions.parquet"
done
note "16 models, 2 best models and 2 sets of predictions are byte for byte those of one machine"
note "passed"
