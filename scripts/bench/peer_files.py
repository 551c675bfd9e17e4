"""What a search in PyTorch leaves in its folder while it runs, so that it can be told at any moment how far it came.

`NNNN.json` for every trial that ended (and `NNNN.pt`, its weights, written before), `progress.csv` with a line an epoch, `searched`
with the moment when the last trial ended. No PyTorch here.
"""

import json
import os
from pathlib import Path

COLUMNS = ("time", "trial", "epoch", "val_f1", "train_seconds", "validation_seconds")


def add_progress(folder, *values):
    """A line of `progress.csv`; one `write` to a file opened for appending, so that workers don't cut each other's lines."""
    with open(Path(folder) / "progress.csv", "ab", buffering=0) as file:
        file.write((",".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in values) + "\n").encode())


def progress(folder):
    """The lines as dictionaries; a last line that is cut is left out."""
    path = Path(folder) / "progress.csv"
    rows = (line.split(",") for line in path.read_text().splitlines()) if path.exists() else ()
    return [dict(zip(COLUMNS, map(float, row))) for row in rows if len(row) == len(COLUMNS)]


def write_trial(folder, number, record):
    path = Path(folder) / f"{number:04}.json"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(json.dumps(record | {"number": number}))
    partial.rename(path)


def trials(folder, state=None):
    """Trials that ended, by number: `state` is complete, late (stopped by the time limit) or failed."""
    found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("[0-9]*.json"))]
    return [trial for trial in found if state in (None, trial["state"])]


def weights_of(folder, number):
    return Path(folder) / f"{number:04}.pt"


def best(complete, objective):
    """The trial that the study would take."""
    return (min if objective == "val_loss" else max)(complete, key=lambda trial: trial["value"])
