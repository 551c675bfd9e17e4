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
#   PRECISION=f32|tf32|fp16  DEVICE=auto|cpu|cuda:N  WORKERS=N  THREADS=N  MEMORY=8G  DEVICE_MEMORY=4G
# Setting of the report:
#   THRESHOLD=validation|0.5|purity=0.95|efficiency=0.9
# Setting of all stages:
#   LOG_FORMAT=text|json
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
# shellcheck source=settings.sh
. "$root/scripts/settings.sh"

version=${1:?usage: pipeline.sh VERSION [SETTING=VALUE]...}
shift

# --- Command line -------------------------------------------------------------------------------

dry=''
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

# --- What to do ---------------------------------------------------------------------------------

locate "$version"
scratch=''
trap 'if [[ -n $scratch ]]; then rm -rf "$scratch"; fi' EXIT
derive "run_$version.sh" "$dry"
stages=$(needed)
if [[ -n $stages ]]; then preflight local "$stages"; fi
if [[ -n $dry ]]; then
  "${make[@]}" -n
  exit
fi

# --- Make ---------------------------------------------------------------------------------------

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
