# The settings of a run, for every launcher (one machine, Slurm, HTCondor); to be sourced after lib.sh.
# shellcheck shell=bash disable=SC2034,SC2154

declare -A set=()
declare -a data=() overrides=()
# Set by `derive`: the config as given, the folder of the run, the folder with the wanted settings, make's command line.
config='' out='' want='' from=$PWD
declare -a make=()

# Names of settings and what their values must match.
declare -A known=(
  [DATA]='.+' [OUT]='.+' [CONFIG]='.+' [TEST]='.+'
  [PLANE]='U|V|X' [WIDTH]='[1-9][0-9]*' [MAX_SAMPLES]='[1-9][0-9]*' [SEED]='[0-9]+'
  [SPLIT_BY]='event|file|cluster' [DUPLICATES]='held-out|keep|drop'
  [BALANCE]='none|undersample|oversample' [BALANCE_SCOPE]='train|all' [ON_BAD_FILE]='skip|fail' [MAX_BAD]='[0-9]+'
  [TRIALS]='[1-9][0-9]*' [EPOCHS]='[1-9][0-9]*' [BATCH_SIZE]='[1-9][0-9]*' [PATIENCE]='[0-9]+'
  [OBJECTIVE]='val_f1|val_accuracy|val_loss' [NORMALIZATION]='scale|raw'
  [PRECISION]='f32|tf32|fp16' [DEVICE]='auto|cpu|cuda(:[0-9]+)?' [WORKERS]='[1-9][0-9]*' [THREADS]='[1-9][0-9]*'
  [MEMORY]='[0-9]+(\.[0-9]+)?[KMGT]?i?B?' [DEVICE_MEMORY]='[0-9]+(\.[0-9]+)?[KMGT]?i?B?'
  [THRESHOLD]='validation|(purity=|efficiency=)?(0?\.[0-9]+|0|1|1\.0*)'
  [LOG_FORMAT]='text|json'
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

# locate VERSION: the config, the folder of the run, Python, the programs.
locate() {
  config=${set[CONFIG]:-$root/scripts/configs/$1.json}
  [[ -r $config ]] || die "there is no config \`$config\`" "give one with CONFIG=FILE, or use scripts/configs/v4.json"
  config=$(realpath -- "$config")
  out=$(realpath -m -- "${set[OUT]:-runs/$1}")
  find_python 8
  command -v make >/dev/null || die "no \`make\` found" "install it: \`apt-get install make\` or \`dnf install make\`"
  build_binaries
  use_library
}

# derive COMMAND [DRY]: write the run's config and the settings of its stages, go to its folder, and compose `make`.
# With DRY, nothing is written but a scratch folder, which `scratch` names. COMMAND is for messages.
derive() {
  local command=$1 dry=${2:-} place=$out key folder
  if [[ -n $dry ]]; then
    scratch=$(TMPDIR=/tmp mktemp -d)
    want=$scratch/want
    if [[ ! -d $out ]]; then place=$scratch; fi
  else
    mkdir -p -- "$out" || die "can't create the folder \`$out\`" "give another with OUT=DIR"
    want=.done/want
  fi
  local -a arguments=()
  for key in "${!set[@]}"; do arguments+=("$key=${set[$key]}"); done
  for folder in "${data[@]}"; do arguments+=("DATA=$folder"); done
  cd -- "$place" || exit 1
  mkdir -p "$want"
  "$python" "$root/scripts/pipeline.py" settings --config "$config" --from "$from" --out "$out" --want "$want" \
    ${dry:+--dry-run} --command "$command" -- "${arguments[@]}" "${overrides[@]}"
  compose "$dry"
}

# compose DRY: make's command line, with every name quoted for the shell inside a recipe.
compose() {
  local test_set=$out/data/test
  if [[ -n ${set[TEST]:-} ]]; then test_set=$(cd "$from" && realpath -m -- "${set[TEST]}"); fi
  make=(
    make --no-print-directory --silent -f "$root/scripts/pipeline.mk"
    "BIN=$(quoted "$bin")" "OUT=$(quoted "$out")" "WANT=$want" "DRY=$1" "TEST=$(quoted "$test_set")"
    "PYTHON=$(quoted "$python")" "HELPER=$(quoted "$root/scripts/pipeline.py")"
    "PREPARE_FLAGS=$(flags BALANCE_SCOPE SPLIT_BY DUPLICATES ON_BAD_FILE MAX_BAD THREADS LOG_FORMAT)"
    "SEARCH_FLAGS=$(flags LOG_FORMAT)"
    "TRAIN_FLAGS=$(flags DEVICE PRECISION THREADS WORKERS MEMORY DEVICE_MEMORY LOG_FORMAT)"
    "EVALUATE_FLAGS=$(flags THRESHOLD DEVICE THREADS LOG_FORMAT)"
  )
  unset MAKEFLAGS MAKELEVEL # this may have been started by make
}

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

# needed: names of the stages that are not up to date, one a line (prepare, study, train, evaluate).
needed() { "${make[@]}" DRY=1 NAMES=1 -n; }

# preflight LAUNCHER STAGES [FREE_GB]: what can be known to fail before anything runs; see preflight.py.
preflight() {
  local launcher=$1 stages=$2 file=$out/config.json
  if [[ -n ${scratch:-} ]]; then file=$scratch/want/config.json; fi
  "$python" "$root/scripts/preflight.py" --bin "$bin" --config "$file" --out "$out" --root "$root" --launcher "$launcher" \
    --device "${set[DEVICE]:-auto}" --ort-version "$ort_version" --stages "$stages" || exit 1
}
