#!/usr/bin/env bash
# The whole chain with the search of v1; `run_v1.sh --help` says what can be set.
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" v1 "$@"
