# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# Set-up in a copy of the project's scripts, so that the real cache stays as it is.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# project FOLDER: a project with nothing but scripts; the space in its name is on purpose.
project() { mkdir -p "$1" && cp -r "$scripts" "$1/scripts"; }

fetches_the_library_once() {
  project "a project"
  "a project/scripts/setup.sh" 2>words
  cat words
  local place="a project/.cache/onnxruntime/1.31.1-cpu"
  test -s "$place/libonnxruntime.so"
  test -s "$place/libonnxruntime_providers_shared.so"
  same "$(ls -A "a project/.cache/onnxruntime")" 1.31.1-cpu # nothing half is left behind
  fails 0 "a project/scripts/setup.sh"
  same "$(cat words)" "ONNX Runtime 1.31.1 (cpu): up to date"
}

wrong_hash_is_refused() {
  project p
  sed -i 's/sha256:..../sha256:0000/' p/scripts/requirements-onnxruntime.txt
  fails 1 p/scripts/setup.sh
  says "DO NOT MATCH THE HASHES"
  says "pip could not download what"
  same "$(ls -A p/.cache/onnxruntime)" ""
}

missing_pip_is_told() {
  project p
  printf '#!/bin/sh\n[ "$1" = -c ]\n' >python-without-pip
  chmod +x python-without-pip
  MTID_PYTHON=$PWD/python-without-pip fails 1 p/scripts/setup.sh
  says "python-without-pip -m pip\` does not work"
  MTID_PYTHON=no-such-python fails 1 p/scripts/setup.sh
  says "no Python 3.8 or newer found (looked at: no-such-python)"
}

wrong_options_are_refused() {
  fails 2 "$scripts/setup.sh" --cuda
  says 'unknown argument `--cuda`'
  fails 2 "$scripts/setup.sh" --with-cuda
  fails 2 "$scripts/demo.sh" DATA=here
  fails 2 "$scripts/test.sh" --quick
}

help_is_there() {
  local script
  for script in setup demo test check run_v1 run_v2 run_v3 run_v4; do
    "$scripts/$script.sh" --help >words
    says "Usage:"
  done
  says "run_v4.sh [DATA=DIR]"
}

it "set-up fetches the library once" fetches_the_library_once
it "a download with a wrong hash is refused" wrong_hash_is_refused
it "a missing pip or Python is told with a remedy" missing_pip_is_told
it "wrong options are refused" wrong_options_are_refused
it "every script has a help" help_is_there
