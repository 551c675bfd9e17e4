#!/usr/bin/env bash
# Submit the whole chain to HTCondor as a DAG: prepare in shards, a study with several workers, the report after them.
#
# Usage: scripts/htcondor/submit.sh v1|v2|v3|v4|CONFIG.json [DATA=DIR] [SETTING=VALUE]... [OPTION]...
#
# Settings are those of run_v4.sh (run_v4.sh --help lists them).
#
#   --shards N            jobs of prepare, each for a part of the files (4)
#   --workers N           jobs that train, all on the same study (1)
#   --gpu                 one GPU for each of them, and for the report
#   --workers-per-gpu N   trials side by side in each of them (1)
#   --cpus N              processor cores of each job (2)
#   --memory SIZE         of each job (4G)
#   --time HH:MM:SS       limit of each job (08:00:00), from which +JobFlavour follows; a job that reaches it goes back
#                         into the queue and goes on
#   --warn SECONDS        how long before the limit a job is told to keep its state (120)
#   --transfer            no shared file system: programs and data travel with the jobs. One job prepares and one trains
#                         (a study is shared by its files), several trials side by side in it if asked
#   --package FILE        with --transfer: the tarball of scripts/package.sh to send (made if left out)
#   -n, --dry-run         check everything, print the DAG and the command lines, and submit nothing
#
# The same command again continues a chain that failed or was removed, and does nothing when all is up to date.
# Logs are in OUT/batch/logs; `search status --watch --study OUT/study` shows the trials, `condor_q -nobatch` the jobs.
# Exit code: 0 submitted or up to date, 1 failed, 2 wrong command line.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=../settings.sh
. "$root/scripts/settings.sh"
# shellcheck source=../batch.sh
. "$root/scripts/batch.sh"

warn=120 transfer='' package=''
condor_option() {
  case $1 in
    --warn) number "$1" "$2"; warn=$2 ;;
    --package) package=$(realpath -- "$2") || die "there is no \`$2\`" ;;
    *) return 1 ;;
  esac
}
declare -a words=()
# The one option without a value.
for word; do if [[ $word == --transfer ]]; then transfer=1; else words+=("$word"); fi; done
own_option=condor_option
batch_options "${words[@]}"
if [[ -n $transfer && $workers != 1 ]]; then
  bad_usage "--workers $workers does not go with --transfer" "a study is shared by its files; give --workers-per-gpu N, or use a shared file system"
fi
IFS=: read -r hours minutes rest <<<"$wall"
limit=$((10#$hours * 3600 + 10#$minutes * 60 + 10#$rest))
seconds=$((limit - warn))
((seconds > 0)) || bad_usage "--time $wall is not longer than the --warn of $warn s"
# CERN's flavours: the first that is long enough.
flavour=nextweek
for pair in espresso:1200 microcentury:3600 longlunch:7200 workday:28800 tomorrow:86400 testmatch:259200; do
  if ((limit <= ${pair#*:})); then flavour=${pair%:*}; break; fi
done

[[ -n $dry ]] || command -v condor_submit_dag >/dev/null || die "no \`condor_submit_dag\` here" "run this on a machine from which HTCondor takes jobs"
batch_begin htcondor
for text in "$out" "$root"; do
  [[ $text != *[[:space:]\"\'\$]* ]] || die "HTCondor can't take the name \`$text\`" "use a folder without blanks, quotes and dollars"
done
memory_mib=${memory%[MG]}
if [[ $memory == *G ]]; then memory_mib=$((memory_mib * 1024)); fi

# vars STAGE NAME=VALUE...: the names that the submit files leave open.
vars() {
  local stage=$1 pair gpus=0
  shift
  if [[ -n $gpu && $stage =~ ^(train|evaluate)$ ]]; then gpus=1; fi
  printf 'VARS %s' "$stage"
  for pair in "scripts=$root/scripts" "out=$out" "stage=$stage" "seconds=$seconds" "warn=$warn" "cpus=$cpus" \
    "memory=$memory_mib" "gpus=$gpus" "flavour=$flavour" "$@"; do
    printf ' %s="%s"' "${pair%%=*}" "${pair#*=}"
  done
  echo
}

# node NAME STAGE TASKS PARENTS
node() {
  echo "JOB $1 $root/scripts/htcondor/job.sub"
  vars "$2" "tasks=$3" | sed "s/^VARS $2 /VARS $1 /"
  echo "RETRY $1 2"
  if [[ -n $4 ]]; then echo "PARENT $4 CHILD $1"; fi
}

# on_shared_files: stage.sh does every step. Each worker is a node of its own, since DAGMan removes all jobs of a node
# of which one fails; and after its retries it counts as done, since one that saw the end of the study is enough: the
# report's job looks whether there was one.
on_shared_files() {
  local previous='' number names=''
  if [[ $stages == *prepare* ]]; then
    node scan scan "$shards" ""
    node plan plan 1 scan
    node write write "$shards" plan
    previous='write'
  fi
  if [[ $stages != "evaluate " ]]; then
    node study study 1 "$previous"
    for ((number = 0; number < workers; number++)); do
      node "train$number" train 1 study
      echo "SCRIPT POST train$number $root/scripts/htcondor/worker_ended.sh \$RETURN \$RETRY \$MAX_RETRIES"
      names+="train$number "
    done
    previous=${names% }
  fi
  node evaluate evaluate 1 "$previous"
}

# own_node NAME FUNCTION INPUTS OUTPUT [COMMAND]...: a job with its files; COMMAND runs here when it is done.
own_node() {
  echo "JOB $1 $root/scripts/htcondor/transfer.sub"
  vars "$1" "function=$2" "inputs=$3" "outputs=$4"
  echo "SCRIPT POST $1 $root/scripts/htcondor/ended.sh \$RETURN ${*:5}"
  # Stopped in order (75): again. Failed (1): not.
  echo "RETRY $1 200 UNLESS-EXIT 1"
}

# on_own_files: three jobs; the notes between them are made where the DAG runs.
on_own_files() {
  local inputs='' folder
  if [[ $stages == *prepare* ]]; then
    for folder in "${folders[@]}"; do inputs+=",$folder"; done
    own_node prepare prepare_all "${inputs#,}" data
  fi
  if [[ $stages != "evaluate " ]]; then
    own_node train train_study data,study study "$root/scripts/stage.sh" "$out" trained
    echo "SCRIPT PRE train $root/scripts/stage.sh $out study"
    if [[ $stages == *prepare* ]]; then echo "PARENT prepare CHILD train"; fi
  fi
  own_node evaluate evaluate_best data,study report "$root/scripts/stage.sh" "$out" reported
  if [[ $stages != "evaluate " ]]; then echo "PARENT train CHILD evaluate"; fi
}

declare -a folders=()
if [[ -n $transfer ]]; then
  config_here=config.json
  if [[ -n $dry ]]; then config_here=$want/config.json; fi
  mapfile -t folders < <("$python" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["data_directories"], sep="\n")' "$config_here")
  names=$(for folder in "${folders[@]}"; do basename "$folder"; done | sort | uniq -d)
  [[ -z $names ]] || die "two input folders have the name \`$names\`" "with --transfer they need different ones; rename one, or use their parent"
  [[ -z ${set[TEST]:-} ]] || die "TEST does not go with --transfer" "run evaluate by hand on that set"
  remote_lines() {
    local flag_inputs='' folder
    for folder in "${folders[@]}"; do flag_inputs+=" --input $(printf %q "$(basename "$folder")")"; done
    "${make[@]}" BIN=mt-identifier/bin OUT=. TEST=data/test PYTHON=python3 HELPER=none stages |
      sed "s|^\(prepare_all() { exec [^;]*\); }|\1$flag_inputs; }|"
  }
  mkdir -p "$batch/remote"
  remote_lines >"$batch/remote/stages.sh"
  if [[ -z $dry ]]; then
    if [[ -z $package ]]; then package=$("$root/scripts/package.sh" ${gpu:+--gpu} "$PWD/batch/package.tar.gz"); fi
    ln -f "$package" batch/mt-identifier.tar.gz 2>/dev/null || cp "$package" batch/mt-identifier.tar.gz
  fi
  on_own_files >"$batch/chain.dag"
else
  on_shared_files >"$batch/chain.dag"
fi

if [[ -n $dry ]]; then
  echo "condor_submit_dag -batch-name mt-identifier $out/batch/chain.dag"
  cat "$batch/chain.dag"
  if [[ -n $transfer ]]; then
    batch=$batch/remote
    show_lines prepare_all search_create train_study evaluate_best
  else
    show_lines prepare_scan prepare_plan prepare_write search_create train_study evaluate_best
  fi
  exit
fi
if [[ -e batch/chain.dag.lock ]]; then
  die "the DAG of this run is at work already" "wait for it, or stop it: \`condor_q -dag -nobatch\` shows its number, \`condor_rm NUMBER\` stops it and its jobs"
fi
# A rescue file of an earlier chain would skip stages that the settings of today want; the stages know what is done.
rm -f batch/chain.dag.rescue* batch/chain.dag.condor.sub batch/chain.dag.{lib,dagman}.{out,err} batch/chain.dag.{dagman.log,metrics,nodes.log}
(cd batch && condor_submit_dag -f -batch-name mt-identifier chain.dag) >&2 || die "condor_submit_dag failed; its message is above"
say "logs: $out/batch/logs, and $out/batch/chain.dag.dagman.out"
say "watch: $bin/search status --watch --study $out/study"
