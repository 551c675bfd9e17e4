#!/usr/bin/env bash
# The whole chain with the search of v2; `run_v2.sh --help` says what can be set.
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" v2 "$@"
