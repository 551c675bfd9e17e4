#!/usr/bin/env bash
# Run the whole chain: NPZ clusters -> splits -> search and training -> report.
#
# Usage: run_vN.sh [DATA=DIR] [SETTING=VALUE]... [-j N] [-n]
#
#   DATA=DIR         folder with the NPZ files, searched recursively; may be given several times
#   OUT=DIR          folder for everything that is written (runs/vN)
#   CONFIG=FILE      your own config (scripts/configs/vN.json)
#   TEST=DIR         another test set than OUT/data/test: the `test` folder of another `prepare`
#
#   -j N             train N trials side by side (as WORKERS=N)
#   -n               print the commands that would run, and run nothing
#
# Settings of the data:
#   PLANE=U|V|X  WIDTH=16|32  MAX_SAMPLES=N  SEED=N  SPLIT_BY=event|file|cluster  DUPLICATES=held-out|keep|drop
#   BALANCE=none|undersample|oversample  BALANCE_SCOPE=train|all  ON_BAD_FILE=skip|fail  MAX_BAD=N
# Settings of the search and the training:
#   TRIALS=N  EPOCHS=N  BATCH_SIZE=N  PATIENCE=N  OBJECTIVE=val_f1|val_accuracy|val_loss  NORMALIZATION=scale|raw
#   PRECISION=f32|tf32  DEVICE=auto|cpu|cuda:N  WORKERS=N  THREADS=N
# Setting of the report:
#   THRESHOLD=validation|0.5|purity=0.95|efficiency=0.9
# Any other key of the config, by its path and as JSON:
#   model_parameters.space_options.n_filters='[16, 32]'
#
# A second run with the same settings does nothing. A changed setting or input redoes what depends on it
# and only that; a study that no longer fits is kept beside the new one. A run that was stopped or killed
# goes on where it was. Each command is printed before it runs, to be repeated by hand.
# MTID_BIN names a folder with built programs; without it, cargo builds them.
# Exit code: 0 done, 1 failed, 2 wrong command line, 75 stopped by a signal (the same command goes on).
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=${1:?usage: pipeline.sh VERSION [SETTING=VALUE]...}
shift

# --- Command line -------------------------------------------------------------------------------

declare -A set=()
declare -a data=() overrides=()
dry=''

# Names of settings and what their values must match.
declare -A known=(
  [DATA]='.+' [OUT]='.+' [CONFIG]='.+' [TEST]='.+'
  [PLANE]='U|V|X' [WIDTH]='[1-9][0-9]*' [MAX_SAMPLES]='[1-9][0-9]*' [SEED]='[0-9]+'
  [SPLIT_BY]='event|file|cluster' [DUPLICATES]='held-out|keep|drop'
  [BALANCE]='none|undersample|oversample' [BALANCE_SCOPE]='train|all' [ON_BAD_FILE]='skip|fail' [MAX_BAD]='[0-9]+'
  [TRIALS]='[1-9][0-9]*' [EPOCHS]='[1-9][0-9]*' [BATCH_SIZE]='[1-9][0-9]*' [PATIENCE]='[0-9]+'
  [OBJECTIVE]='val_f1|val_accuracy|val_loss' [NORMALIZATION]='scale|raw'
  [PRECISION]='f32|tf32' [DEVICE]='auto|cpu|cuda(:[0-9]+)?' [WORKERS]='[1-9][0-9]*' [THREADS]='[1-9][0-9]*'
  [THRESHOLD]='validation|(purity=|efficiency=)?(0?\.[0-9]+|0|1|1\.0*)'
)

# assign KEY VALUE: check one setting and keep it.
assign() {
  local key=$1 value=$2
  if [[ $key == *.* ]]; then
    overrides+=("$key=$value")
    return
  fi
  if [[ -z ${known[$key]+known} ]]; then
    bad_usage "unknown setting \`$key\`" "known are: $(printf '%s\n' "${!known[@]}" | sort | tr '\n' ' ')" \
      "a key of the config is given by its path, such as model_parameters.batch_size=256"
  fi
  [[ $value =~ ^(${known[$key]})$ ]] || bad_usage "$key=$value is not possible" "it must match: ${known[$key]}"
  if [[ $key == DATA ]]; then data+=("$value"); else set[$key]=$value; fi
}

while (($#)); do
  case $1 in
    -h | --help) help_of "${BASH_SOURCE[0]}" | sed "s/vN/$version/g"; exit ;;
    -n | --dry-run) dry=1 ;;
    -j) # the number may be left out, as in make
      if [[ ${2:-} =~ ^[0-9]+$ ]]; then assign WORKERS "$2"; shift; else assign WORKERS "$(nproc)"; fi ;;
    -j*) assign WORKERS "${1#-j}" ;;
    *=*) assign "${1%%=*}" "${1#*=}" ;;
    *) bad_usage "unexpected argument \`$1\`" "settings look like TRIALS=5; run_$version.sh --help lists them" ;;
  esac
  shift
done

# --- Folders, programs, the derived config ------------------------------------------------------

config=${set[CONFIG]:-$root/scripts/configs/$version.json}
[[ -r $config ]] || die "there is no config \`$config\`" "give one with CONFIG=FILE, or use scripts/configs/v4.json"
out=$(realpath -m -- "${set[OUT]:-runs/$version}")
find_python 8
command -v make >/dev/null || die "no \`make\` found" "install it: \`apt-get install make\` or \`dnf install make\`"
build_binaries
use_library
if [[ -z ${ORT_DYLIB_PATH:-}${MTID_BIN:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]] &&
  ! compgen -G "$cache/onnxruntime/$ort_version-*/libonnxruntime.so" >/dev/null; then
  die "ONNX Runtime is not set up" "run once: $root/scripts/setup.sh (with --gpu for CUDA)"
fi

# `want` holds the settings of this run, stage by stage; `.done` those that each stage was last run with.
scratch=''
trap 'if [[ -n $scratch ]]; then rm -rf "$scratch"; fi' EXIT
if [[ -n $dry ]]; then
  scratch=$(TMPDIR=/tmp mktemp -d)
  want=$scratch/want
  place=$scratch
  if [[ -d $out ]]; then place=$out; fi
else
  mkdir -p -- "$out" || die "can't create the folder \`$out\`" "give another with OUT=DIR"
  want=.done/want
  place=$out
fi
declare -a arguments=()
for key in "${!set[@]}"; do arguments+=("$key=${set[$key]}"); done
for folder in "${data[@]}"; do arguments+=("DATA=$folder"); done
from=$PWD
cd -- "$place"
mkdir -p "$want"
"$python" "$root/scripts/pipeline.py" settings --config "$(cd "$from" && realpath -- "$config")" --from "$from" --out "$out" \
  --want "$want" ${dry:+--dry-run} --command "run_$version.sh" -- "${arguments[@]}" "${overrides[@]}"

# --- Make ---------------------------------------------------------------------------------------

# flags NAME...: `--name value` for each setting of that name that was given.
flags() {
  local name
  for name; do
    if [[ -n ${set[$name]:-} ]]; then
      local flag=${name,,}
      printf -- '--%s %q ' "${flag//_/-}" "${set[$name]}"
    fi
  done
}
# quoted TEXT: safe in a shell command inside a make recipe.
quoted() { local text; printf -v text %q "$1"; printf %s "${text//\$/\$\$}"; }
test_set=$out/data/test
if [[ -n ${set[TEST]:-} ]]; then test_set=$(cd "$from" && realpath -m -- "${set[TEST]}"); fi

declare -a make=(
  make --no-print-directory --silent -f "$root/scripts/pipeline.mk"
  "BIN=$(quoted "$bin")" "OUT=$(quoted "$out")" "WANT=$want" "DRY=$dry" "TEST=$(quoted "$test_set")"
  "PYTHON=$(quoted "$python")" "HELPER=$(quoted "$root/scripts/pipeline.py")"
  "PREPARE_FLAGS=$(flags BALANCE_SCOPE SPLIT_BY DUPLICATES ON_BAD_FILE MAX_BAD THREADS)"
  "TRAIN_FLAGS=$(flags DEVICE PRECISION THREADS WORKERS)"
  "EVALUATE_FLAGS=$(flags THRESHOLD DEVICE THREADS)"
)
unset MAKEFLAGS MAKELEVEL # this may have been started by make
if [[ -n $dry ]]; then
  "${make[@]}" -n
  exit
fi

# Make gets a process group of its own and hears of signals from here, once: the stage then stops in order.
stopped=''
before=$(stat -c %y .done/evaluate 2>/dev/null || true)
set -m
"${make[@]}" </dev/null &
pid=$!
trap 'stopped=1; kill -TERM "$pid" 2>/dev/null || true' INT TERM HUP
code=0
wait "$pid" || code=$?
while kill -0 "$pid" 2>/dev/null; do wait "$pid" || code=$?; done
set +m
if [[ -n $stopped ]]; then
  say "stopped; the same command goes on from here"
  exit 75
fi
if ((code)); then
  say "failed; the messages above say why. After a remedy, the same command goes on from here"
  exit 1
fi
# Whatever is redone, the report is redone after it.
if [[ $(stat -c %y .done/evaluate) == "$before" ]]; then say "up to date: $out"; fi
"$python" "$root/scripts/pipeline.py" summary "$out/report"
