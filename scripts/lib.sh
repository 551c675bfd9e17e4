# What the scripts share; to be sourced, not run.
# shellcheck shell=bash

ort_version=1.31.1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=$root/.cache
# Set by the functions below: a Python interpreter and the folder of the programs.
python='' bin=''

# say TEXT: a line for the person, beside the results on standard output.
say() { printf '%s\n' "$*" >&2; }

# die WHAT [WHAT-TO-DO]...: the end, with a reason and a way out.
die() {
  say "error: $1"
  shift
  local line
  for line; do say "  $line"; done
  exit 1
}

# bad_usage WHAT [HINT]...: as `die`, for a wrong command line.
bad_usage() {
  say "error: $1"
  shift
  local line
  for line; do say "  $line"; done
  exit 2
}

# help_of SCRIPT: print the comment at the top of a script.
help_of() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"; }

# find_python MINOR: the first Python 3 with at least this minor version, into `python`.
# MTID_PYTHON, if set, is the only one looked at.
find_python() {
  local minor=$1 candidate
  local -a candidates=(python3 python3.14 python3.13 python3.12 python3.11)
  if [[ -n ${MTID_PYTHON:-} ]]; then candidates=("$MTID_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $minor))" >/dev/null 2>&1; then
      python=$(command -v "$candidate")
      return
    fi
  done
  die "no Python 3.$minor or newer found (looked at: ${candidates[*]})" \
    "install one, or name it: MTID_PYTHON=/path/to/python3 $0"
}

# need_pip: `python` must be able to run pip.
need_pip() {
  "$python" -m pip --version >/dev/null 2>&1 && return
  die "\`$python -m pip\` does not work" \
    "install pip: \`apt-get install python3-pip\`, \`dnf install python3-pip\` or \`$python -m ensurepip --user\`" \
    "or name another Python: MTID_PYTHON=/path/to/python3 $0"
}

# build_binaries: the programs in `bin`, built if they are missing or older than their sources.
build_binaries() {
  local name
  if [[ -n ${MTID_BIN:-} ]]; then
    bin=$(cd "$MTID_BIN" 2>/dev/null && pwd -P) || die "MTID_BIN names \`$MTID_BIN\`, which is no folder"
    for name in prepare search train evaluate; do
      [[ -x $bin/$name ]] || die "\`$bin\` (MTID_BIN) has no program \`$name\`" "correct or unset MTID_BIN"
    done
    return
  fi
  if [[ -x $root/bin/train && ! -e $root/Cargo.toml ]]; then # a tarball of scripts/package.sh
    bin=$root/bin
    return
  fi
  command -v cargo >/dev/null || die "no \`cargo\` found, which builds the programs" \
    "install a Rust toolchain (see rustup), or set MTID_BIN to a folder with the built programs"
  local -a quiet=(--quiet)
  bin=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/release
  if [[ ! -x $bin/train ]]; then
    say "building the programs (about 5 minutes the first time)"
    quiet=()
  fi
  (cd "$root" && cargo build --release --workspace "${quiet[@]}") || die "the build failed; its messages are above"
}

# use_library: what the programs need to find CUDA where scripts/setup.sh --with-cuda put it.
use_library() {
  local cuda=$cache/onnxruntime/$ort_version-gpu/cuda
  if [[ -d $cuda ]]; then export LD_LIBRARY_PATH=$cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
  return 0
}

# test_python: the pinned Python environment of the tests, `.cache/venv-test`.
test_python() { python_environment "$root/scripts/requirements-test.txt" "$cache/venv-test" "the tests"; }

# python_environment LIST PLACE WHOSE: a virtual environment with what LIST pins, made anew when the list changes.
python_environment() {
  local list=$1 place=$2 whose=$3 stamp
  find_python 11
  stamp=$(cat "$list" <("$python" -VV) | sha256sum)
  if [[ $(cat "$place/stamp" 2>/dev/null) == "$stamp" ]]; then
    say "Python environment of $whose: up to date"
    return
  fi
  say "Python environment of $whose: installing into $place"
  need_pip
  rm -rf "$place"
  mkdir -p "$cache"
  # Debian's Python comes without ensurepip; then the outer pip installs into the environment.
  if "$python" -m venv "$place" >/dev/null 2>&1; then
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement "$list"
  else
    rm -rf "$place"
    "$python" -m venv --without-pip "$place" &&
      "$python" -m pip --python "$place/bin/python" install --quiet --disable-pip-version-check --only-binary=:all: \
        --requirement "$list"
  fi || die "could not install what $list lists" "pip's messages are above; delete $place to start afresh"
  printf '%s\n' "$stamp" >"$place/stamp"
}
