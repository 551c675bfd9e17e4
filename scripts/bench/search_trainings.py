"""Turn the export of a study into a table: parameters, value, and the value after each epoch.

    search export --study STUDY --format json | python search_trainings.py > trainings.csv
"""

import csv
import json
import sys

export = json.load(sys.stdin)
trials = [trial for trial in export["trials"] if trial["state"] == "COMPLETE"]
names = list(export["study"]["space"])
epochs = export["study"]["experiment"]["epochs"]
table = csv.writer(sys.stdout, lineterminator="\n")
table.writerow([*names, "val_f1", *(f"epoch_{epoch}" for epoch in range(1, epochs + 1))])
for trial in trials:
    reported = [value for _, value in trial["intermediate_values"]]  # fewer where training stopped early
    params = [trial["params"][name] for name in names]
    cells = [f"{number:.7g}" for number in [*params, trial["value"], *reported]]
    table.writerow(cells + [""] * (epochs - len(reported)))
