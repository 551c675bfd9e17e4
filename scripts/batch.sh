# What the launchers for batch systems share: options, checks, OUT/batch; to be sourced after settings.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# Options, as `batch_options` leaves them; the launchers turn them into requests of their system.
version='' dry='' shards=4 workers=1 per_gpu=1 gpu='' cpus=2 memory=4G wall=08:00:00
# Words that only one system knows, and what `batch_options` calls with them (returns how many it used).
own_option=false
scratch=''
trap 'if [[ -n $scratch ]]; then rm -rf "$scratch"; fi' EXIT

# number OPTION VALUE
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || bad_usage "$1 $2 is not possible" "give a number from 1"; }

# batch_options WORD...: the command line.
batch_options() {
  local word
  while (($#)); do
    word=$1
    shift
    case $word in
      -h | --help) help_of "$0"; exit ;;
      -n | --dry-run) dry=1 ;;
      --gpu) gpu=1 ;;
      --shards | --workers | --workers-per-gpu | --cpus | --memory | --time)
        (($#)) || bad_usage "$word needs a value"
        batch_value "$word" "$1"
        shift ;;
      *=*) assign "${word%%=*}" "${word#*=}" ;;
      v[0-9]*) version=$word ;;
      *.json) set[CONFIG]=$word ;;
      *)
        $own_option "$word" "${1:-}" || bad_usage "unexpected argument \`$word\`" "${0##*/} --help says what there is"
        shift ;;
    esac
  done
  [[ -n $version || -n ${set[CONFIG]:-} ]] || bad_usage "no config given" "give v1, v2, v3, v4 or a JSON file; ${0##*/} --help says more"
  batch_defaults
}

batch_value() {
  case $1 in
    --shards) number "$@"; shards=$2 ;;
    --workers) number "$@"; workers=$2 ;;
    --workers-per-gpu) number "$@"; per_gpu=$2 ;;
    --cpus) number "$@"; cpus=$2 ;;
    --memory) [[ $2 =~ ^[1-9][0-9]*[MG]$ ]] || bad_usage "--memory $2 is not possible" "give it like 8G"; memory=$2 ;;
    --time) [[ $2 =~ ^[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$ ]] || bad_usage "--time $2 is not possible" "give it like 08:00:00"; wall=$2 ;;
  esac
}

# Devices and threads follow from what the jobs ask for.
batch_defaults() {
  if [[ -n ${set[WORKERS]:-} ]]; then
    bad_usage "WORKERS does not say whether jobs or trials side by side are meant" \
      "give --workers N (jobs), or --workers-per-gpu N (trials side by side in each)"
  fi
  if [[ ${set[DEVICE]:-} == cuda* ]]; then gpu=1; fi
  # A batch system shows a job its own GPU only, as number 0.
  case ${set[DEVICE]:-}:$gpu in
    : | cpu:) set[DEVICE]=cpu ;;
    :1 | cuda:1 | cuda:0:1) set[DEVICE]=cuda:0 ;;
    *) bad_usage "DEVICE=${set[DEVICE]} does not go with batch jobs" "give --gpu for one GPU a job, or DEVICE=cpu" ;;
  esac
  if ((per_gpu > 1)); then set[WORKERS]=$per_gpu; fi
  set[THREADS]=${set[THREADS]:-$cpus}
}

# batch_begin LAUNCHER: derive the run, check all that can be, leave the names of its stages in `stages`; ends the
# script where nothing is to do.
batch_begin() {
  locate "${version:-$(basename "${set[CONFIG]}" .json)}"
  derive "${0##*/}" "$dry"
  stages=$(needed | tr '\n' ' ')
  if [[ -z ${stages// /} ]]; then
    say "up to date: $out"
    exit
  fi
  preflight "$1" "$stages"
  if [[ -z $dry ]]; then batch_folder "$PWD/batch"; else batch_folder "$scratch/batch"; fi
}

# batch_folder DIR: what the jobs read: the wanted settings as they are now, and the command lines.
batch_folder() {
  mkdir -p "$1/logs"
  rm -rf "$1/want"
  cp -rP "$want" "$1/want"
  {
    echo "# Command lines of this run, for stage.sh. Written by ${0##*/} on $(date -u +%Y-%m-%dT%H:%M:%SZ); not to be edited."
    local name
    for name in ORT_DYLIB_PATH LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX; do
      if [[ -n ${!name:-} ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done
    "${make[@]}" stages
  } >"$1/stages.sh.tmp"
  mv "$1/stages.sh.tmp" "$1/stages.sh"
  batch=$1
  if [[ -n $dry || " $stages" != *" prepare "* ]]; then return; fi
  # As make would at the start of `prepare`: from now on the folder belongs to these settings, and what others have begun
  # or what a kill left without its purpose is thrown away, while no job is at work.
  if [[ ! -e data.partial/job.json ]] || { [[ -e .done/prepare.started ]] && ! cmp -s "$want/prepare" .done/prepare.started; }; then
    rm -rf data.partial
  fi
  mkdir -p .done
  cp "$want/prepare" .done/prepare.started
}

# show_lines FUNCTION...: for a dry run, the command lines that the jobs run.
show_lines() {
  local function
  for function; do sed -n "s/^$function() { exec \(.*\); }$/    \1/p" "$batch/stages.sh"; done
}
