#!/usr/bin/env bash
# Run a command that is told to stop in order before the job's time is over. Usage: job.sh SECONDS COMMAND...
#
# The command gets TERM after SECONDS, and when HTCondor takes the machine away; it keeps its state and ends with 75,
# and the job goes back into the queue (`on_exit_remove` in the submit files).
exec timeout --preserve-status --signal=TERM --kill-after=600 "$@"
