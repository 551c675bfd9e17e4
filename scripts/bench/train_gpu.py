#!/usr/bin/env python3
"""Training on a GPU against PyTorch: samples/s of both in one run; scripts/bench/train_gpu.sh sets all up and calls this.

Usage: train_gpu.py --data SPLITS [--ours PROGRAM] [--device cuda:0] [--rounds N] [--networks NAME,...] [--compile]

Needs PyTorch with CUDA in the Python that runs this. Each round runs PyTorch's variants (torch_peer.py) and then ours at
each precision, every one in a process of its own; the table has the medians of the rounds and the ratios of these.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# name: filters, kernel, conv layers, dense layers, units, batch, steps timed
NETWORKS = {
    "F32": (32, 3, 2, 2, 64, 128, 500),
    "F128": (128, 3, 2, 2, 64, 128, 500),
    "F256": (256, 5, 4, 2, 256, 256, 200),
}
ROWS = 65536
# Our precision and PyTorch's of the same kind: half as wide as f32, with f32 weights.
PEERS = {"tf32": "tf32", "fp16": "bf16"}


def options_of(network):
    names = ("filters", "kernel", "conv-layers", "dense-layers", "units", "batch", "steps")
    return [f"--{name}={value}" for name, value in zip(names, network)] + [f"--rows={ROWS}", "--dropout=0"]


def run(command, environment=None):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def torch_rates(network, device, compile_too):
    """The line about versions, and samples/s of each variant."""
    index = device.partition(":")[2] or "0"
    # PyTorch's first GPU is then the one that was asked for.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = visible.split(",")[int(index)] if visible else index
    command = [sys.executable, str(HERE / "torch_peer.py"), *options_of(network)] + ["--compile"] * compile_too
    title, *lines = run(command, os.environ | {"CUDA_VISIBLE_DEVICES": chosen}).splitlines()
    found = (re.fullmatch(r"(.+): (\d+) samples/s, .*", line) for line in lines)
    return title, {match[1]: float(match[2]) for match in found if match}


def our_rate(program, network, data, device, precision):
    command = [str(program), f"--data={data}", f"--device={device}", f"--precision={precision}", *options_of(network)]
    return float(re.search(r": ([\d.]+) samples/s", run(command))[1])


def measure(args, network, precisions):
    """Medians over the rounds of everything that ran."""
    found, title = {}, ""
    for _ in range(args.rounds):
        title, rates = torch_rates(network, args.device, args.compile)
        for precision in precisions:
            rates[f"ours, {precision}"] = our_rate(args.ours, network, args.data, args.device, precision)
        print({name: round(rate) for name, rate in rates.items()}, file=sys.stderr, flush=True)
        for name, rate in rates.items():
            found.setdefault(name, []).append(rate)
    return title, {name: statistics.median(rates) for name, rates in found.items()}


def ratios(rates, precisions):
    """Ours against PyTorch's CUDA graph, and against its best, at the same kind of precision."""
    found = {}
    for precision in precisions:
        ours, kind = rates[f"ours, {precision}"], PEERS[precision]
        same = {name: rate for name, rate in rates.items() if not name.startswith("ours") and name.endswith(kind)}
        found[f"{precision} / graph {kind}"] = ours / same[f"graph channels-last {kind}"]
        if any(name.startswith("compiled") for name in same):
            found[f"{precision} / best {kind}"] = ours / max(same.values())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--ours", type=pathlib.Path, default=HERE.parents[1] / "target/release/examples/throughput")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    offered = run([str(args.ours), "--help"])
    precisions = [precision for precision in PEERS if precision in offered]
    title = ""
    for at, name in enumerate(args.networks.split(",")):
        network = NETWORKS[name]
        title, rates = measure(args, network, precisions)
        compared = ratios(rates, precisions)
        if at == 0:
            print("| network | " + " | ".join([*rates, *compared]) + " |")
            print("|---" * (1 + len(rates) + len(compared)) + "|")
        filters, kernel, convs, denses, units, batch, _ = network
        cells = [f"F {filters}, k {kernel}, conv {convs}, dense {denses}, U {units}, batch {batch}"]
        cells += [f"{rate:,.0f}" for rate in rates.values()] + [f"{ratio:.2f}" for ratio in compared.values()]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{title}; medians of {args.rounds} round(s) in turn; samples/s, no dropout, {ROWS} clusters on the GPU.")


if __name__ == "__main__":
    main()
