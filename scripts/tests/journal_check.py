"""Every trial of the budget complete exactly once, by the journal itself. Usage: journal_check.py JOURNAL BUDGET"""

import json
import sys

SET_STATE_VALUES, COMPLETE, FAIL = 6, 1, 3
CREATE_TRIAL = 4


def main():
    path, budget = sys.argv[1], int(sys.argv[2])
    operations = [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]
    created = [entry for entry in operations if entry["op_code"] == CREATE_TRIAL]
    told = {}
    for entry in operations:
        if entry["op_code"] == SET_STATE_VALUES and entry["state"] in (COMPLETE, FAIL):
            told.setdefault(entry["trial_id"], []).append(entry["state"])
    twice = {trial: states for trial, states in told.items() if len(states) > 1}
    failed = [trial for trial, states in told.items() if FAIL in states]
    complete = [trial for trial, states in told.items() if states == [COMPLETE]]
    print(f"{path}: {len(created)} trials made, {len(complete)} complete once, {len(failed)} failed, {len(twice)} told twice")
    if twice or failed or len(complete) != budget or len(created) != budget:
        sys.exit(f"expected {budget} trials, each complete once")


if __name__ == "__main__":
    main()
