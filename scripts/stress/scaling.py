"""How the cost of each stage grows with clusters, trials and workers: the curves of docs/SCALING.md.

Usage: scaling.py BIN FOLDER [STUDY_BENCH] [LARGEST]

BIN: folder of the built programs; FOLDER: scratch; STUDY_BENCH: target/release/examples/study_bench; LARGEST: most
clusters, 100000 by default. Seconds are of processors (user and system), since wall clocks of a shared machine mean little.
"""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

BIN, FOLDER = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
BENCH = sys.argv[3] if len(sys.argv) > 3 else None
LARGEST = int(sys.argv[4]) if len(sys.argv) > 4 else 100_000


def run(*command):
    """Run; returns seconds of processors, seconds by the clock, and the largest memory of any child so far in MB."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - start, done


def memory(*command):
    """Peak resident memory of a command in MB."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=-3, stderr=-3); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    return int(subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True).stdout)


def config(epochs, trials, filters):
    path = FOLDER / "config.json"
    space = {"n_conv_layers": [2], "n_dense_layers": [2], "n_filters": [filters], "kernel_size": [3], "n_dense_units": [64],
             "dropout_rate": [0.1], "learning_rate": [0.0005, 0.005], "decay_rate": [0.95, 0.98]}
    model = {"input_shape": [128, 16, 1], "hp_max_evals": trials, "epochs": epochs, "batch_size": 128, "space_options": space,
             "early_stopping": {"monitor": "val_loss", "patience": epochs, "restore_best_weights": True}}
    path.write_text(json.dumps({"plane": "X", "model_parameters": model}), encoding="utf-8")
    return path


def fresh(name):
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    return FOLDER / name


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def by_clusters():
    print("clusters  prepare CPU s  MB in  MB out  prepare MB  epoch CPU s  train MB  evaluate CPU s  evaluate MB")
    count = 1000
    while count <= LARGEST:
        source, data, report = fresh("clusters"), fresh("data"), fresh("report")
        run(BIN / "simulate", "--output", source, "--clusters", count, "--planes", "X", "--columns", 14, "--width", 16, "--seed", 1)
        rows = config(1, 1, 32)
        prepare, _, _ = run(BIN / "prepare", "--config", rows, "--input", source, "--output", data)
        prepare_mb = memory(BIN / "prepare", "--config", rows, "--input", source, "--output", fresh("again"))
        costs, train_mb, model = {}, 0, None
        for epochs in (1, 3):
            study = fresh(f"study{epochs}")
            run(BIN / "search", "create", "--config", config(epochs, 1, 32), "--study", study)
            if epochs == 3:
                train_mb = memory(BIN / "train", "--study", study, "--data", data, "--device", "cpu")
                study = fresh("study3")
                run(BIN / "search", "create", "--config", config(epochs, 1, 32), "--study", study)
            costs[epochs], _, _ = run(BIN / "train", "--study", study, "--data", data, "--device", "cpu")
            model = study / "best.onnx"
        evaluate, _, _ = run(BIN / "evaluate", "--model", model, "--data", data / "test", "--output", report, "--device", "cpu")
        evaluate_mb = memory(BIN / "evaluate", "--model", model, "--data", data / "test", "--output", fresh("report2"), "--device", "cpu")
        epoch = (costs[3] - costs[1]) / 2
        print(f"{count:8}  {prepare:13.2f}  {size(source) / 1e6:5.0f}  {size(data) / 1e6:6.1f}  {prepare_mb:10}  {epoch:11.2f}  {train_mb:8}  {evaluate:14.2f}  {evaluate_mb:11}"
              f"   (one trial of one epoch: {costs[1]:.2f})", flush=True)
        count *= 10


def by_workers():
    print("\nworkers  trials  CPU s a trial  wall s  trials twice or lost")
    source, data = fresh("clusters"), fresh("data")
    run(BIN / "simulate", "--output", source, "--clusters", 2000, "--planes", "X", "--columns", 14, "--width", 16, "--seed", 1)
    run(BIN / "prepare", "--config", config(2, 64, 8), "--input", source, "--output", data)
    for workers in (1, 2, 4, 8, 16):
        study = fresh("study")
        run(BIN / "search", "create", "--config", config(2, 64, 8), "--study", study)
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        line = [str(word) for word in (BIN / "train", "--study", study, "--data", data, "--device", "cpu", "--threads", 1)]
        children = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(workers)]
        codes = [child.wait() for child in children]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        text = (study / "journal.log").read_text(encoding="utf-8")
        ends = re.findall(r'"op_code":6,.*"trial_id":(\d+),"state":1', text)
        wrong = len(ends) - len(set(ends)) + 64 - len(set(ends))
        print(f"{workers:7}  {64:6}  {cpu / 64:13.3f}  {time.monotonic() - start:6.1f}  {wrong}{'' if not any(codes) else f' (exit codes {codes})'}", flush=True)


def by_trials():
    print("\ntrials  journal MB  read      ask and tell")
    for trials in (10, 100, 1000, 10_000):
        study = fresh("big")
        run(BENCH, "make", study, trials)
        read = run(BENCH, "read", study)[2]
        ask = run(BENCH, "ask-tell", study)[2]
        words = [(done.stdout + done.stderr).strip() for done in (read, ask)]
        print(f"{trials:6}  {(study / 'journal.log').stat().st_size / 1e6:10.2f}  {words[0]}; {words[1]}", flush=True)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    by_clusters()
    by_workers()
    if BENCH:
        by_trials()
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
