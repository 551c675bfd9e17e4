#!/usr/bin/env python3
"""Does half precision end where f32 does? The same trainings in each precision, and the differences of their F1.

Usage: scripts/bench/fp16.py [--bin DIR] [--work DIR] [--device cuda:0] [--precisions f32,tf32,fp16] [--clusters N] [--seeds N]
                             [--epochs N] [--networks NAME,...]

Simulates N clusters (50,000), splits them 70:15:15, trains every network with every seed in every precision (early stopping on
val_loss with patience 5), and evaluates each model on the test split. Prints F1 of the main track (at the threshold that is best on
validation rows), the differences from the first precision seed by seed, and their mean; ends with 1 if a mean differs by more than
--tolerance (0.003). A name may stand twice in --precisions, such as `f32,f32`: differences are then exactly 0 on a CPU, and
what repeating a training does on a GPU.

Needs Python's standard library only, the programs `simulate`, `prepare`, `search`, `train` and `evaluate` in one folder (--bin;
default: target/release of the project), and ONNX Runtime where these find it; no network, no compiler. What is there in
--work from an earlier call with the same settings is not made again.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# name: filters, kernel, conv layers, dense layers, units, dropout
NETWORKS = {
    "F32": (32, 3, 2, 2, 64, 0.1),
    "F85": (85, 5, 3, 2, 128, 0.2),
    "F128": (128, 3, 2, 2, 64, 0.1),
}
FIRST_SEED = 101


def run(program, *arguments):
    command = [str(args.bin / program), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}")


def config(network):
    filters, kernel, convs, denses, units, dropout = NETWORKS[network]
    space = {
        "n_filters": [filters],
        "kernel_size": [kernel],
        "n_conv_layers": [convs],
        "n_dense_layers": [denses],
        "n_dense_units": [units],
        "dropout_rate": [dropout],
        "learning_rate": {"choice": [0.0005]},
        "decay_rate": {"choice": [0.96]},
    }
    stopping = {"monitor": "val_loss", "patience": 5, "restore_best_weights": True}
    model = {"hp_max_evals": 1, "epochs": args.epochs, "batch_size": 128, "early_stopping": stopping, "space_options": space}
    return {"model_name": "simple_cnn", "plane": "X", "data_directories": [], "model_parameters": model}


def splits(work):
    """The split folder of the simulated clusters."""
    clusters, folder, settings = work / "clusters", work / "splits", work / "config.json"
    if not (folder / "manifest.json").exists():
        if not clusters.exists():
            scratch = work / "clusters.tmp"
            run("simulate", "--output", scratch, "--clusters", args.clusters, "--seed", 7)
            scratch.rename(clusters)
        settings.write_text(json.dumps(config(next(iter(NETWORKS)))))
        run("prepare", "--config", settings, "--input", clusters, "--output", folder)
    return folder


def train(work, data, network, seed, name, precision):
    """Validation F1, test F1, epochs and seconds of one training."""
    folder = work / f"{network}-{seed}-{name}-{args.epochs}"
    study, report = folder / "study", folder / "report"
    trial = study / "trials/0000"
    folder.mkdir(exist_ok=True)
    settings = folder / "config.json"
    if not trial.exists():
        settings.write_text(json.dumps(config(network)))
        run("search", "create", "--config", settings, "--study", study, "--seed", seed)
        run("search", "ask", "--study", study)
    begin = time.monotonic()
    run("train", "--trial", trial, "--data", data, "--device", args.device, "--precision", precision)
    seconds = time.monotonic() - begin
    run("evaluate", "--model", trial / "model.onnx", "--data", data / "test", "--output", report, "--device", args.device)
    result = json.loads((trial / "result.json").read_text())
    assert result["precision"] == precision, f"{trial} was trained in {result['precision']}"
    test = json.loads((report / "report.json").read_text())["f1"]["main_track"]
    return {"validation": result["val_f1"], "test": test, "epochs": result["epochs"], "seconds": seconds}


def print_differences(found, names):
    """Table of mean differences from the first name; whether all are small."""
    near = True
    print(f"\n| network | precision | F1 on | mean difference from {names[0]} | by seed | standard error |\n|---|---|---|---|---|---|")
    for network in args.networks:
        for name in names[1:]:
            for split in ("validation", "test"):
                each = [there[name][split] - there[names[0]][split] for there in found[network].values()]
                mean = statistics.mean(each)
                error = f"{statistics.stdev(each) / len(each) ** 0.5:.4f}" if len(each) > 1 else "unknown"
                print(f"| {network} | {name} | {split} | {mean:+.4f} | {', '.join(f'{d:+.4f}' for d in each)} | {error} |")
                near &= abs(mean) <= args.tolerance
    for network in args.networks:
        for split in ("validation", "test"):
            by_seed = [there[names[0]][split] for there in found[network].values()]
            spread = max(by_seed) - min(by_seed)
            print(f"{network}: {names[0]} itself spreads over {spread:.4f} on {split} from seed to seed")
    return near


def main(work):
    if not (args.bin / "train").exists():
        sys.exit(f"`{args.bin}` has no program `train`; build it, or name another folder with --bin")
    names = [f"{p} again" if p in args.precisions[:at] else p for at, p in enumerate(args.precisions)]
    data = splits(work)
    manifest = json.loads((data / "manifest.json").read_text())
    rows = {split: manifest["splits"][split]["rows"] for split in ("train", "validation", "test")}
    print(f"{args.clusters} clusters asked for; rows: {rows}; {args.device}; at most {args.epochs} epochs\n")
    print("| network | seed | precision | F1 validation | F1 test | epochs | seconds |\n|---|---|---|---|---|---|---|")
    found = {network: {} for network in args.networks}
    for network in args.networks:
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            here = found[network][seed] = {}
            for name, precision in zip(names, args.precisions):
                one = here[name] = train(work, data, network, seed, name.replace(" ", "-"), precision)
                scores = f"{one['validation']:.4f} | {one['test']:.4f}"
                print(f"| {network} | {seed} | {name} | {scores} | {one['epochs']} | {one['seconds']:.1f} |", flush=True)
    near = print_differences(found, names)
    print(f"\n{'all' if near else 'NOT all'} mean differences are within {args.tolerance}")
    return 0 if near else 1


def split_by_comma(text):
    return text.split(",")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release")
    parser.add_argument("--work", type=pathlib.Path, help="kept; by default a temporary folder")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precisions", type=split_by_comma, default=["f32", "tf32", "fp16"])
    parser.add_argument("--clusters", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--networks", type=split_by_comma, default=["F32", "F85"])
    parser.add_argument("--tolerance", type=float, default=0.003)
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        sys.exit(main(args.work.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(pathlib.Path(folder)))
