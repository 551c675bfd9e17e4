#!/usr/bin/env python3
"""How far both searches of whole_search.sh are, and the table of what they came to.

Usage: whole_search.py status|report OUTPUT SPLITS

Reads what both wrote: ours by `search export` (OUTPUT/ours/trials.json), PyTorch's by peer_files.py. Python's standard library only.
"""

import datetime
import json
import sys
import time
from pathlib import Path

import peer_files

# Moments at which the two are compared, in seconds after their beginning.
MOMENTS = (60, 120, 300, 600, 900, 1200, 1800, 3600)


def moment(path):
    return float(path.read_text()) if path.exists() else None


class Side:
    """One of the two: when it began, whether it runs, and its trials as (seconds after the beginning, validation F1)."""

    def __init__(self, folder, title):
        self.folder, self.title = folder, title
        self.begin, self.end = moment(folder / "begin"), moment(folder / "end")
        self.trials, self.epochs, self.failed, self.running, self.test = [], 0, 0, 0, None

    @property
    def seconds(self):
        return (self.end or time.time()) - self.begin

    def state(self):
        if self.end is None:
            return "running"
        code = (self.folder / "code").read_text().strip()
        return "ended" if code == "0" else f"stopped or failed (code {code}; {self.folder / 'log'})"

    def best(self, until=float("inf")):
        """Trials complete by then, and the best validation F1 of them."""
        found = [f1 for ended, f1 in self.trials if ended <= until]
        return len(found), max(found, default=None)


def ours(output):
    side = Side(output / "ours", "mt-identifier")
    export = side.folder / "trials.json"
    if side.begin is None or not export.exists():
        return side
    exported = json.loads(export.read_text())
    side.title += f", {exported['study']['sampler']}"
    for trial in exported["trials"]:
        side.epochs += len(trial["intermediate_values"])
        if trial["state"] == "COMPLETE":
            ended = datetime.datetime.fromisoformat(trial["completed"].replace("Z", "+00:00")).timestamp()
            result = json.loads((side.folder / f"study/trials/{trial['trial']:04}/result.json").read_text())
            side.trials.append((ended - side.begin, result["val_f1"]))
        side.failed += trial["state"] == "FAIL"
        side.running += trial["state"] == "RUNNING"
    report = side.folder / "report/report.json"
    if report.exists():
        found = json.loads(report.read_text())
        side.test = (found["f1"]["main_track"], found["balanced"]["f1"]["main_track"])
        side.cut = (found["baseline"]["f1"]["main_track"], found["baseline"]["balanced"]["f1"]["main_track"])
    return side


def peer(output):
    side = Side(output / "peer", "Optuna and PyTorch")
    if side.begin is None:
        return side
    folder = side.folder / "search"
    # The search is over before its best model is scored.
    side.end = moment(folder / "searched") or side.end
    complete = peer_files.trials(folder, "complete")
    side.trials = [(trial["ended"] - side.begin, trial["val_f1"]) for trial in complete]
    side.failed = len(peer_files.trials(folder, "failed"))
    progress = peer_files.progress(folder)
    side.epochs = len(progress)
    side.running = len({row["trial"] for row in progress}) - len(peer_files.trials(folder))
    side.shares = [sum(trial[name] for trial in complete) for name in ("seconds", "start_seconds", "validation_seconds")]
    side.uncompiled = sum(not trial["compiled"] for trial in complete)
    report = folder / "report.json"
    if report.exists():
        found = json.loads(report.read_text())
        side.test = (found["test_f1"], found["test_f1_balanced"])
    return side


def f1(value):
    return "–" if value is None else f"{value:.4f}"


def status(side):
    if side.begin is None:
        return f"{side.title}: not begun"
    count, best = side.best()
    now = f", {side.running} under way" if side.running else ""
    return (
        f"{side.title}: {side.state()}, {side.seconds:.0f} s, {count} trials complete{now}, {side.failed} failed, "
        f"{side.epochs} epochs, best validation F1 {f1(best)}"
    )


def table(sides, output, splits):
    lines = ["| | seconds | trials complete | epochs | best validation F1 | test F1 of that model (50:50) |", "|---|---|---|---|---|---|"]
    for side in sides:
        count, best = side.best()
        so_far = " so far" if side.end is None else "" if side.state() == "ended" else ", stopped"
        extra = "".join(f", and {n} {what}" for n, what in ((side.running, "under way"), (side.failed, "failed")) if n)
        test = f"{f1(side.test[0])} ({f1(side.test[1])})" if side.test else "–"
        lines.append(f"| {side.title} | {side.seconds:.0f}{so_far} | {count}{extra} | {side.epochs} | {f1(best)} | {test} |")
    if hasattr(sides[0], "cut"):
        lines.append(f"| the cut on the cluster energy | | | | | {f1(sides[0].cut[0])} ({f1(sides[0].cut[1])}) |")
    last = max(side.seconds for side in sides)
    lines += ["", "| after | " + " | ".join(f"{side.title}: trials, best validation F1" for side in sides) + " |", "|---" * (1 + len(sides)) + "|"]
    for seconds in MOMENTS:
        if seconds > last:
            break
        cells = [f"{count}, {f1(best)}" for count, best in (side.best(seconds) for side in sides)]
        lines.append(f"| {seconds} s | " + " | ".join(cells) + " |")
    for side in sides:
        if getattr(side, "shares", [0])[0]:
            whole, start, validation = side.shares
            lines += [
                "",
                f"PyTorch's complete trials took {whole:.0f} s of its workers' time: {start:.0f} s until their first step (torch.compile, "
                f"capture), {validation:.0f} s of validation. {len(side.trials) - side.uncompiled} of {len(side.trials)} were compiled.",
            ]
    rows = {name: split["rows"] for name, split in json.loads((splits / "manifest.json").read_text())["splits"].items()}
    shown = ("sampler", "seed", "workers", "precision", "device", "peer_workers", "peer_precision", "peer_device", "compile", "in_turn")
    settings = [line for line in (output / "settings").read_text().splitlines() if line.partition("=")[0] in shown]
    lines += ["", ", ".join(f"{count:,} {name}" for name, count in rows.items()) + " clusters; one run each. " + ", ".join(settings) + "."]
    return "\n".join(lines)


def main():
    what, output, splits = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    sides = [ours(output), peer(output)]
    begun = [side for side in sides if side.begin is not None]
    if not begun:
        sys.exit(f"neither has begun: the data is being made ({output / 'log'})")
    for side in sides:
        print(status(side), file=sys.stdout if what == "status" else sys.stderr)
    if what == "report":
        text = table(begun, output, splits)
        (output / "report.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
