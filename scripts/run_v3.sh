#!/usr/bin/env bash
# The whole chain with the search of v3; `run_v3.sh --help` says what can be set.
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" v3 "$@"
