#!/usr/bin/env bash
# A whole search from Parquet to its best model: ours on one card, Optuna and PyTorch on another one of the same host.
#
# Usage: scripts/bench/whole_search.sh start --output DIR [--data SPLITS | --clusters N] [--config FILE] [--sampler tpe|random]
#          [--seed N] [--workers N] [--precision fp16|tf32] [--device cuda:0] [--peer-workers N] [--peer-precision bf16|tf32]
#          [--peer-device cuda:1] [--no-compile] [--in-turn] [--only ours|peer]
#        scripts/bench/whole_search.sh status|report|stop --output DIR
#
#   start    begins both in the background, in sessions of their own, and returns: they outlive the command and its terminal.
#            Makes the data first, unless --data names a split folder (500,000 clusters: 350,000 of them for training)
#   status   how far both are
#   report   the table, of both as they are now; computes the F1 of both best models so far on the test split. May be called
#            before the end, after it, and after `stop`
#   stop     ends both in order
#
# Both have v4's space and budget (scripts/configs/v4.json) and a TPE of their own: ours, and Optuna's. PyTorch runs in bf16,
# captured and compiled (max-autotune; compiling counts). With two cards both run at the same time, each on half of the cores; with
# --in-turn, or where --peer-device is --device, one after the other. DIR should be outside of what is copied or cleaned between commands.
# Needs a Python with PyTorch and Optuna (`python3`, or TORCH_PYTHON=...). On a machine without `cargo`, MTID_BIN names a
# folder with search, train, evaluate, simulate, prepare, and, if Python has no pyarrow, arrays.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=lib.sh
. "$root/scripts/bench/lib.sh"
here=$root/scripts/bench

# What `start` is given and the other commands find in DIR/settings.
names=(data clusters config sampler seed workers precision device peer_workers peer_precision peer_device compile in_turn only bin torch_python)
data='' clusters=500000 config=$root/scripts/configs/v4.json sampler=tpe seed=5 workers=4 precision='' device=cuda:0
peer_workers=4 peer_precision=bf16 peer_device=cuda:1 compile=1 in_turn='' only='' output=''

what=${1:-}
case $what in
  -h | --help) help_of "$0"; exit ;;
  start | status | report | stop | background | ours | peer) shift ;;
  *) bad_usage "the first word is start, status, report or stop" "scripts/bench/whole_search.sh --help says more" ;;
esac
while (($#)); do
  case $1 in
    -h | --help) help_of "$0"; exit ;;
    --no-compile) compile=''; shift ;;
    --in-turn) in_turn=1; shift ;;
    --output | --data | --clusters | --config | --sampler | --seed | --workers | --precision | --device | --peer-workers | \
      --peer-precision | --peer-device | --only)
      (($# > 1)) || bad_usage "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" '%s' "$2"
      shift 2 ;;
    *) bad_usage "unknown argument \`$1\`" "scripts/bench/whole_search.sh --help says what there is" ;;
  esac
done
[[ -n $output ]] || bad_usage "--output DIR is missing"
[[ $only == '' || $only == ours || $only == peer ]] || bad_usage "--only takes ours or peer"
output=$(realpath -m "$output")
if [[ $what != start ]]; then
  [[ -e $output/settings ]] || die "\`$output\` holds no such measurement" "begin one: scripts/bench/whole_search.sh start --output $output"
  # shellcheck source=/dev/null
  . "$output/settings"
fi

# on_card DEVICE COMMAND...: the command sees this card alone, as its first.
on_card() {
  local card=${1#cuda:} visible
  if [[ $1 != cpu ]]; then
    IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES:-}"
    export CUDA_VISIBLE_DEVICES=${visible[card]:-$card}
  fi
  exec "${@:2}"
}

# seen DEVICE: how a program that sees one card calls it.
seen() { if [[ $1 == cpu ]]; then echo cpu; else echo cuda:0; fi; }

# beside: whether both run at the same time.
beside() { [[ -z $only && -z $in_turn && ($device != "$peer_device" || $device == cpu) ]]; }

# running SIDE
running() { [[ -e $output/$1/pid && ! -e $output/$1/end ]] && kill -0 "$(<"$output/$1/pid")" 2>/dev/null; }

# side NAME [CORES]: run a side to its end, in a session of its own, and write down when it began and ended.
side() {
  local place=$output/$1 code=0 limit=()
  [[ ! -e $output/stopped ]] || return 0
  mkdir -p "$place"
  if [[ -n ${2:-} ]] && taskset -c "$2" true 2>/dev/null; then limit=(taskset -c "$2"); fi
  date +%s.%N >"$place/begin"
  setsid "${limit[@]}" bash "$here/whole_search.sh" "$1" --output "$output" </dev/null >"$place/log" 2>&1 &
  echo $! >"$place/pid"
  wait $! || code=$?
  echo "$code" >"$place/code"
  date +%s.%N >"$place/end"
}

case $what in
  start)
    [[ ! -e $output/settings ]] || die "\`$output\` holds a measurement already" "name another folder, or remove it"
    [[ -e $config ]] || bad_usage "there is no config \`$config\`"
    config=$(realpath "$config")
    if [[ -z $precision && $device != cpu ]]; then precision=fp16; fi
    if [[ $only != ours ]]; then
      need_torch "$peer_device"
      "$torch_python" -c 'import optuna' 2>/dev/null ||
        bad_usage "\`$torch_python\` has no Optuna" "install it, or name another Python: TORCH_PYTHON=/path/to/python"
      if [[ $peer_device != cpu ]]; then
        "$torch_python" -c 'import sys, torch; sys.exit(torch.cuda.device_count() <= int(sys.argv[1]))' "${peer_device#cuda:}" ||
          bad_usage "there is no second card \`$peer_device\`" "--peer-device $device runs both one after the other"
      fi
    fi
    if [[ -z ${ORT_DYLIB_PATH:-} && $device != cpu ]]; then "$root/scripts/setup.sh" --gpu >&2; fi
    build_programs search train evaluate simulate prepare
    if [[ -n $data ]]; then
      [[ -e $data/manifest.json ]] || die "\`$data\` is no split folder of \`prepare\`"
      data=$(realpath "$data")
    fi
    # Copies, so that a build or a new copy of the project does not change what runs.
    mkdir -p "$output/bin"
    for name in search train evaluate simulate prepare arrays examples/arrays; do
      if [[ -x $bin/$name ]]; then cp -L "$bin/$name" "$output/bin/"; fi
    done
    bin=$output/bin
    for name in "${names[@]}"; do printf '%s=%q\n' "$name" "${!name}"; done >"$output/settings"
    # The same library and packages later, whatever the shell of that moment knows.
    for name in ORT_DYLIB_PATH LD_LIBRARY_PATH PYTHONPATH; do
      if [[ -n ${!name:-} ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done >>"$output/settings"
    setsid bash "$here/whole_search.sh" background --output "$output" </dev/null >"$output/log" 2>&1 &
    echo $! >"$output/pid"
    # What fails at once is said here.
    for _ in 1 2 3 4 5 6; do
      sleep 0.5
      kill -0 "$(<"$output/pid")" 2>/dev/null || break
    done
    cat "$output/log" >&2
    say "started; scripts/bench/whole_search.sh status --output $output" ;;

  background)
    if [[ -z $data ]]; then
      data=$(bench_data "$clusters")
      printf 'data=%q\n' "$data" >>"$output/settings"
    fi
    if [[ $only != ours ]] && ! "$torch_python" -c 'import pyarrow.dataset' 2>/dev/null; then
      [[ -x $bin/arrays ]] || die "\`$torch_python\` has no pyarrow, and there was no program \`arrays\` at the start" \
        "build it in a new measurement: cargo build --release -p shared --example arrays"
      "$bin/arrays" "$data" "$output/arrays"
      printf 'arrays=%q\n' "$output/arrays" >>"$output/settings"
    fi
    date +%s.%N >"$output/data_ready"
    cores=$(nproc)
    if beside; then
      first='' second=''
      if ((cores > 3)); then first=0-$((cores / 2 - 1)) second=$((cores / 2))-$((cores - 1)); fi
      side ours "$first" &
      side peer "$second" &
      wait
    else
      if [[ $only != peer ]]; then side ours; fi
      if [[ $only != ours ]]; then side peer; fi
    fi ;;

  ours)
    use_library
    "$bin/search" create --config "$config" --study "$output/ours/study" --sampler "$sampler" --seed "$seed" --pruner none
    on_card "$device" "$bin/train" --study "$output/ours/study" --data "$data" --device "$(seen "$device")" --workers "$workers" \
      ${precision:+--precision "$precision"} ;;

  peer)
    export PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=$output/peer/inductor
    threads=$(($(nproc) / peer_workers))
    export TORCHINDUCTOR_COMPILE_THREADS=$((threads > 1 ? threads : 1))
    on_card "$peer_device" "$torch_python" "$here/search_torch.py" --optuna "$config" "${arrays:-$data}" --output "$output/peer/search" \
      --device "${peer_device%%:*}" --workers "$peer_workers" --precision "$peer_precision" --sampler "$sampler" --seed "$seed" \
      ${compile:+--compile} ;;

  status | report)
    use_library
    if [[ -e $output/ours/study/study.json ]]; then
      "$bin/search" export --study "$output/ours/study" --format json >"$output/ours/trials.json"
    fi
    if [[ $what == report ]]; then
      if [[ -e $output/ours/study/best.onnx ]]; then
        (on_card "$device" "$bin/evaluate" --model "$output/ours/study/best.onnx" --data "$data/test" --output "$output/ours/report" \
          --overwrite --device "$(seen "$device")" >"$output/ours/evaluate.log" 2>&1) ||
          say "\`evaluate\` failed: $output/ours/evaluate.log"
      fi
      if compgen -G "$output/peer/search/[0-9]*.pt" >/dev/null; then
        (on_card "$peer_device" "$torch_python" "$here/search_torch.py" --finish "$config" "${arrays:-$data}" --output "$output/peer/search" \
          --device "${peer_device%%:*}" --workers "$peer_workers" --precision "$peer_precision" \
          >"$output/peer/finish.log" 2>&1) || say "scoring PyTorch's best model failed: $output/peer/finish.log"
      fi
    fi
    find_python 10
    "$python" "$here/whole_search.py" "$what" "$output" "$data" ;;

  stop)
    touch "$output/stopped"
    if [[ ! -e $output/data_ready ]] && kill -0 "$(<"$output/pid")" 2>/dev/null; then kill -TERM -- "-$(<"$output/pid")"; fi
    for name in ours peer; do
      if running "$name"; then kill -TERM -- "-$(<"$output/$name/pid")"; fi
    done
    # `train` writes the checkpoints of its trials first.
    for ((i = 0; i < 120; i++)); do
      running ours || running peer || break
      sleep 1
    done
    for name in ours peer; do
      if running "$name"; then
        say "$name did not end within 2 minutes and is killed"
        kill -KILL -- "-$(<"$output/$name/pid")"
      fi
    done
    say "stopped; scripts/bench/whole_search.sh report --output $output" ;;
esac
