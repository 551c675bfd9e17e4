#!/usr/bin/env bash
# After a job whose files travel: 0 done, 75 send it out again (RETRY), 1 failed. Usage: ended.sh CODE [COMMAND]...
#
# COMMAND runs after a job that is done.
code=$1
shift
if ((code == 0)); then exec "${@:-true}"; fi
if ((code == 75)); then exit 75; fi
exit 1
