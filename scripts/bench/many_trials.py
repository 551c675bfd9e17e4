#!/usr/bin/env python3
"""Several trials on one card: the same study with one worker and with more; scripts/bench/many_trials.sh sets all up and calls this.

Usage: many_trials.py --data SPLITS --output DIR [--bin DIR] [--device cuda:0] [--precision tf32] [--workers 1,4] [--trials 8] [--epochs 12]

The network is F 32 (k 3, conv 2, dense 2, U 64, dropout 0.1, batch 128); only the learning rate varies, and a number of a trial
stands for the same rate in every study. No early stopping. Two speeds are told apart: the whole process, and the clusters a
second (validation included) while all workers were in the midst of their epochs, from the times in each trial's curves.
DIR gets the table (many_trials.md), everything that was said (many_trials.log) and the studies. Python's standard library only.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import struct
import sys
import time

from bench_log import Log

HERE = pathlib.Path(__file__).resolve().parent
SEED = 5


def config(args):
    space = {
        "n_filters": [32],
        "kernel_size": [3],
        "n_conv_layers": [2],
        "n_dense_layers": [2],
        "n_dense_units": [64],
        "dropout_rate": [0.1],
        "learning_rate": {"log_uniform": [0.0003, 0.0015]},
        "decay_rate": {"choice": [0.96]},
    }
    # More patience than epochs: no training ends early.
    stopping = {"monitor": "val_loss", "patience": args.epochs + 1, "restore_best_weights": True}
    model = {"hp_max_evals": args.trials, "epochs": args.epochs, "batch_size": 128, "early_stopping": stopping, "space_options": space}
    return {"model_name": "simple_cnn", "plane": "X", "data_directories": [], "model_parameters": model}


def epochs_of(trial):
    """Beginning and end of each epoch, in seconds since 1970: `history.csv` has the lengths, the file for TensorBoard the ends."""
    records, ends, at = (trial / "events.out.tfevents.0").read_bytes(), [], 0
    while at < len(records):
        (length,) = struct.unpack_from("<Q", records, at)
        # After length and checksum: the tag of a double, and the time; the first record is the file's beginning.
        tag, moment = struct.unpack_from("<Bd", records, at + 12)
        assert tag == 9, f"{trial}: no time where one is expected"
        ends.append(moment)
        at += 12 + length + 4
    columns, *rows = (line.split(",") for line in (trial / "history.csv").read_text().splitlines())
    lengths = [float(row[columns.index("seconds")]) for row in rows]
    return [(end - length, end) for length, end in zip(lengths, ends[1:], strict=True)]


def steady(trials, rows, workers):
    """Clusters a second, and how long that was, while as many trials as there are workers were between their first and last epoch."""
    moments = sorted({moment for epochs in trials for epoch in epochs for moment in epoch})
    seconds = clusters = 0.0
    for begin, end in zip(moments, moments[1:]):
        middle = (begin + end) / 2
        running = [epochs for epochs in trials if epochs[0][0] < middle < epochs[-1][1]]
        if len(running) < workers:
            continue
        seconds += end - begin
        inside = (stop - start for epochs in running for start, stop in epochs if start < middle < stop)
        clusters += sum(rows * (end - begin) / length for length in inside)
    return (clusters / seconds if seconds else 0.0), seconds


def measure(args, log, workers):
    study = args.output / f"workers-{workers}"
    shutil.rmtree(study, ignore_errors=True)
    create = ["create", "--config", args.output / "many_trials.json", "--study", study, "--sampler", "random", "--seed", SEED]
    list(log.lines([args.bin / "search", *create]))
    command = [args.bin / "train", "--study", study, "--data", args.data, "--device", args.device, "--workers", workers]
    begin = time.time()
    list(log.lines(command + (["--precision", args.precision] if args.precision else [])))
    whole = time.time() - begin
    trials = [epochs_of(trial) for trial in sorted((study / "trials").glob("*")) if (trial / "result.json").exists()]
    if len(trials) != args.trials or any(len(epochs) != args.epochs for epochs in trials):
        sys.exit(f"{len(trials)} of {args.trials} trials are complete; {log.path} says why")
    rows = json.loads((args.data / "manifest.json").read_text())["splits"]["train"]["rows"]
    rate, seconds = steady(trials, rows, min(workers, args.trials))
    return {
        "workers": workers,
        "whole": whole,
        "first": min(epochs[0][0] for epochs in trials) - begin,
        "epoch": statistics.median(end - start for epochs in trials for start, end in epochs),
        "rate": rate,
        "steady": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parents[1] / "target/release")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", help="tf32 or fp16; by default what the device has by default")
    parser.add_argument("--workers", default="1,4", help="numbers of workers, the first the one to compare with")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    log = Log(args.output, "many_trials")
    (args.output / "many_trials.json").write_text(json.dumps(config(args), indent=1))
    columns = ["workers", "whole process", "speed-up", "until the first epoch", "an epoch (median)", "clusters/s, all workers in epochs", "ratio"]
    log.table("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    first = None
    for workers in map(int, args.workers.split(",")):
        found = measure(args, log, workers)
        first = first or found
        ratio = lambda a, b: f"{a / b:.2f}" if b else "–"
        log.table(
            f"| {workers} | {found['whole']:.1f} s | {ratio(first['whole'], found['whole'])} | {found['first']:.2f} s | {found['epoch']:.3f} s "
            f"| {found['rate']:,.0f} (for {found['steady']:.1f} s) | {ratio(found['rate'], first['rate'])} |"
        )
    rows = {name: split["rows"] for name, split in json.loads((args.data / "manifest.json").read_text())["splits"].items()}
    log.table(
        f"\n{args.trials} trials of {args.epochs} epochs, F 32, k 3, conv 2, dense 2, U 64, dropout 0.1, batch 128, {args.device}, "
        f"{args.precision or 'default precision'}; {rows['train']:,} training and {rows['validation']:,} validation clusters."
    )


if __name__ == "__main__":
    main()
