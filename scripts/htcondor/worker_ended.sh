#!/usr/bin/env bash
# Does a worker that ended count as failed? Usage: worker_ended.sh CODE RETRY MOST_RETRIES
#
# While it may be started again: yes, then DAGMan does so. After that: no; the others' work is enough for a report.
if (($1 != 0 && $2 < $3)); then exit 1; fi
exit 0
