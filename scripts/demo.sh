#!/usr/bin/env bash
# The whole pipeline on simulated clusters: set up, build, simulate, search, train, evaluate.
#
# Usage: scripts/demo.sh [--gpu] [--small] [SETTING=VALUE]... [-j N]
#
#   --gpu     the CUDA build of ONNX Runtime, and DEVICE=cuda:0
#   --small   few clusters, 2 trials, 2 epochs: does everything work? (the F1 then means nothing)
#
# Everything is written to the project's folder `demo` (OUT=DIR names another). Other settings are those of
# run_v4.sh, such as TRIALS=10 or PLANE=U. A second run does nothing.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

gpu='' out=$root/demo plane=X clusters=40000
declare -a settings=()
while (($#)); do
  case $1 in
    --gpu) gpu=1; settings=(DEVICE=cuda:0 "${settings[@]}") ;;
    --small) clusters=2000; settings=(TRIALS=2 EPOCHS=2 "${settings[@]}") ;;
    -h | --help) help_of "$0"; exit ;;
    OUT=*) out=${1#OUT=} ;;
    PLANE=*) plane=${1#PLANE=}; settings+=("$1") ;;
    DATA=* | CONFIG=*) bad_usage "the demo simulates its own data" "for yours: scripts/run_v4.sh $1" ;;
    *) settings+=("$1") ;; # run_v4.sh refuses what it does not know
  esac
  shift
done
[[ $plane =~ ^[UVX]$ ]] || bad_usage "PLANE=$plane is not possible" "it must be U, V or X"

begin=$SECONDS
if [[ -z ${ORT_DYLIB_PATH:-} && ! -e $root/lib/libonnxruntime.so ]]; then "$root/scripts/setup.sh" ${gpu:+--gpu}; fi
build_binaries
[[ -x $bin/simulate ]] || die "\`$bin\` has no program \`simulate\`" "the demo needs it; unset MTID_BIN to build it"
built=$SECONDS

# The folder's name says what is in it; it gets that name when it is complete.
data=$out/clusters-$plane-$clusters
if [[ ! -d $data ]]; then
  say "simulating $clusters clusters of plane $plane into $data"
  rm -rf "$data.tmp"
  mkdir -p "$out"
  "$bin/simulate" --output "$data.tmp" --clusters "$clusters" --planes "$plane" --columns 14 --width 16 --seed 42
  mv -T "$data.tmp" "$data"
fi

"$root/scripts/run_v4.sh" CONFIG="$root/scripts/configs/demo.json" DATA="$data" OUT="$out/run" "${settings[@]}"
say "took $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s, of which $((built - begin)) s to set up and build"
