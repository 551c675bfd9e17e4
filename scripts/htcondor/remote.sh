#!/usr/bin/env bash
# One stage in the folder of a job whose files were sent along. Usage: remote.sh FUNCTION OUTPUT
#
# FUNCTION is one of stages.sh; OUTPUT is the folder that travels back. It is made at once, since a job that lacks it at its
# end would be held.
set -euo pipefail
mkdir -p mt-identifier "$2"
tar -xzf mt-identifier.tar.gz -C mt-identifier --strip-components=1
# shellcheck disable=SC1091 # sent along; see batch_folder
. ./stages.sh
"$1" # begins with `exec`: from here on this process is the program, and signals reach it
