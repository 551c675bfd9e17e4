#!/usr/bin/env bash
# Submit the whole chain to Slurm: prepare in shards, a study with several workers, the report after them.
#
# Usage: scripts/slurm/submit.sh v1|v2|v3|v4|CONFIG.json [DATA=DIR] [SETTING=VALUE]... [OPTION]...
#
# Settings are those of run_v4.sh (run_v4.sh --help lists them); OUT must be on a file system that all nodes share.
#
#   --shards N            jobs of prepare, each for a part of the files (4)
#   --workers N           jobs that train, all on the same study (1)
#   --gpu                 one GPU for each of them, and for the report
#   --workers-per-gpu N   trials side by side in each of them (1)
#   --cpus N              processor cores of each job (2)
#   --memory SIZE         of each job (4G)
#   --time HH:MM:SS       limit of each job (08:00:00); one that reaches it goes back into the queue and goes on
#   --warn SECONDS        how long before the limit a job is told to keep its state (120)
#   --partition NAME  --account NAME  --qos NAME  --constraint LIST  --exclude NODES
#   -n, --dry-run         check everything, print what would be submitted, and submit nothing
#
# The same command again continues a chain that failed or was cancelled, and does nothing when all is up to date.
# Logs are in OUT/batch/logs; `search status --watch --study OUT/study` shows the trials.
# Exit code: 0 submitted or up to date, 1 failed, 2 wrong command line.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=../settings.sh
. "$root/scripts/settings.sh"
# shellcheck source=../batch.sh
. "$root/scripts/batch.sh"

warn=120
declare -a own=()
slurm_option() {
  [[ -n $2 ]] || return 1
  case $1 in
    --warn) number "$1" "$2"; warn=$2 ;;
    --partition | --account | --qos | --constraint | --exclude) own+=("$1=$2") ;;
    *) return 1 ;;
  esac
}
own_option=slurm_option
batch_options "$@"
[[ -n $dry ]] || command -v sbatch >/dev/null || die "no \`sbatch\` here" "run this on a machine from which Slurm takes jobs"
batch_begin slurm

# The name of this run's jobs: a second chain in the same folder would disturb the first.
name=mtid-$(printf %s "$out" | sha256sum | cut -c1-8)
if [[ -z $dry ]]; then
  queued=$(squeue --noheader --format=%A --name="$name" | sort -un | tr '\n' ' ') || die "\`squeue\` failed; its message is above"
  if [[ -n $queued ]]; then
    die "jobs of this run are in the queue already: $queued" "wait for them, or stop them: scancel --name=$name"
  fi
fi

declare -a submitted=()
last=''
# submit STAGE TASKS DEPENDENCY [SHARDS] [FLAG]...: one sbatch; its job number goes to `last`.
submit() {
  local stage=$1 tasks=$2 dependency=$3 number_of_shards=$4 log=%j
  shift 4
  local -a words=(
    sbatch --parsable "--job-name=$name" "--comment=mt-identifier $stage" "--time=$wall" "--cpus-per-task=$cpus" "--mem=$memory"
    "--signal=B:USR1@$warn" --nodes=1 --ntasks=1 "--chdir=$out" "${own[@]}" "$@"
  )
  if ((tasks > 0)); then words+=("--array=0-$((tasks - 1))"); log=%A_%a; fi
  if [[ -n $dependency ]]; then words+=("--dependency=$dependency" --kill-on-invalid-dep=yes); fi
  words+=("--output=$out/batch/logs/$stage-$log.log" "$root/scripts/slurm/job.sh" "$root/scripts" "$out" "$stage")
  if [[ -n $number_of_shards ]]; then words+=("$number_of_shards"); fi
  if [[ -n $dry ]]; then
    printf '%q ' "${words[@]}"
    echo
    last="<$stage>"
    return
  fi
  last=$("${words[@]}") || {
    if ((${#submitted[@]})); then scancel "${submitted[@]}" || true; fi
    die "sbatch refused the stage \`$stage\`; its message is above" "what was submitted before it is cancelled"
  }
  last=${last%%;*}
  submitted+=("$last")
  say "$stage: job $last"
}
after() { if [[ -n $last ]]; then echo "$1:$last"; fi; }

declare -a gres=()
if [[ -n $gpu ]]; then gres=(--gres=gpu:1); fi
if [[ $stages == *prepare* ]]; then
  submit scan "$shards" "" "$shards"
  if [[ -n $dry ]]; then show_lines prepare_scan; fi
  submit plan 0 "$(after afterok)" ""
  if [[ -n $dry ]]; then show_lines prepare_plan; fi
  submit write "$shards" "$(after afterok)" "$shards"
  if [[ -n $dry ]]; then show_lines prepare_write; fi
fi
# From here on, every stage finds out by itself whether there is something to do.
if [[ $stages != "evaluate " ]]; then
  submit study 0 "$(after afterok)" ""
  if [[ -n $dry ]]; then show_lines search_create; fi
  submit train "$workers" "$(after afterok)" "" "${gres[@]}"
  if [[ -n $dry ]]; then show_lines train_study; fi
fi
# `afterany`: one worker that failed does not matter where another saw the end of the study; stage.sh looks.
submit evaluate 0 "$(after afterany)" "" "${gres[@]}"
if [[ -n $dry ]]; then
  show_lines evaluate_best
  exit
fi
say "logs: $out/batch/logs"
say "watch: $bin/search status --watch --study $out/study"
echo "$last"
