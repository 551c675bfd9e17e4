#!/usr/bin/env python3
"""Training on a GPU against PyTorch: samples/s of both in one run; scripts/bench/train_gpu.sh sets all up and calls this.

Usage: train_gpu.py --data SPLITS --output DIR [--ours PROGRAM] [--device cuda:0] [--rounds N] [--networks NAME,...]
                    [--compile [bf16|all]] [--seconds N]

Needs PyTorch with CUDA in the Python that runs this. First the rate of a large matrix product, then, a network after the other:
each round runs ours at each precision and PyTorch's variants (torch_peer.py), one after the other, in processes of their own. A
network's row, the medians of its rounds, is printed as soon as it is known; once --seconds are over, with what there is.
DIR gets the table (train_gpu.md), all that was said (train_gpu.log) and what torch.compile keeps for the next round.
"""

import argparse
import os
import pathlib
import re
import statistics
import sys
import time

from bench_log import Log

HERE = pathlib.Path(__file__).resolve().parent
# name: filters, kernel, conv layers, dense layers, units, batch, steps timed
NETWORKS = {
    "F32": (32, 3, 2, 2, 64, 128, 500),
    "F128": (128, 3, 2, 2, 64, 128, 500),
    "F256": (256, 5, 4, 2, 256, 256, 200),
}
# Our precision and PyTorch's of the same kind: half as wide as f32, with f32 weights.
PEERS = {"tf32": "tf32", "fp16": "bf16"}
VARIANTS = ("eager tf32", "graph channels-last tf32", "graph channels-last bf16")
PRODUCTS = ("tf32", "bf16", "fp16")


class Bench:
    def __init__(self, args):
        self.args, self.log = args, Log(args.output, "train_gpu")
        self.deadline = time.time() + args.seconds if args.seconds else None
        self.on_gpu = args.device != "cpu"
        # On the CPU, to try the script out, ours knows f32 only.
        self.precisions = list(PEERS) if self.on_gpu else ["f32"]
        self.variants = [*VARIANTS]
        if args.compile:
            kinds = ("bf16", "tf32") if args.compile == "all" else ("bf16",)
            self.variants += [f"compiled graph channels-last {kind}" for kind in kinds]
        self.title = "PyTorch did not start"

    def late(self):
        return self.deadline is not None and time.time() >= self.deadline

    def torch(self, *options):
        """Lines of torch_peer.py, which sees the chosen GPU alone."""
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.args.output.resolve() / "inductor")}
        if self.on_gpu:
            index = self.args.device.partition(":")[2] or "0"
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            cache["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(index)] if visible else index
        device = "cuda" if self.on_gpu else "cpu"
        command = [sys.executable, HERE / "torch_peer.py", f"--device={device}", *options]
        return self.log.lines(command, os.environ | cache, self.deadline)

    def products(self):
        """FLOP/s of a large product by precision."""
        found = {}
        for line in self.torch(f"--product={self.args.product}"):
            if match := re.fullmatch(r"product of \d+, (\w+): ([\d.]+) TFLOP/s", line):
                found[match[1]] = float(match[2]) * 1e12
        return found

    def options(self, network):
        names = ("filters", "kernel", "conv-layers", "dense-layers", "units", "batch", "steps")
        network = network[:-1] + (self.args.steps or network[-1],)
        return [f"--{name}={value}" for name, value in zip(names, network)] + [f"--rows={self.args.rows}", "--dropout=0"]

    def ours(self, network, precision):
        """Samples/s, and operations a sample at active sites."""
        command = [self.args.ours, f"--data={self.args.data}", f"--device={self.args.device}", f"--precision={precision}"]
        rate = operations = None
        for line in self.log.lines(command + self.options(network), None, self.deadline):
            if match := re.search(r": ([\d.]+) samples/s", line):
                rate = float(match[1])
            if match := re.search(r": ([\d.]+) MFLOP a sample", line):
                operations = float(match[1]) * 1e6
        return rate, operations

    def measure(self, network):
        """Medians over the rounds of everything that ran, and the operations a sample."""
        found, operations = {}, None
        for _ in range(self.args.rounds):
            for precision in self.precisions:
                if not self.late():
                    rate, operations = self.ours(network, precision)
                    found.setdefault(f"ours, {precision}", []).append(rate)
            if not self.late():
                compiling = [f"--compile={self.args.compile}"] * bool(self.args.compile)
                for line in self.torch(*self.options(network), *compiling):
                    if match := re.fullmatch(r"(.+): (\d+) samples/s, .*", line):
                        found.setdefault(match[1], []).append(float(match[2]))
                    elif line.startswith("PyTorch "):
                        self.title = line
        known = {name: [rate for rate in rates if rate] for name, rates in found.items()}
        return {name: statistics.median(rates) for name, rates in known.items() if rates}, operations

    def columns(self):
        names = [*self.variants, *(f"ours, {precision}" for precision in self.precisions)]
        for precision in self.precisions:
            kind = PEERS.get(precision, "tf32")
            names += [f"{precision} / graph {kind}", f"{precision} / best {kind}"]
        names += [f"arithmetic at active sites, {precision}" for precision in self.precisions]
        return names

    def cells(self, rates, operations, products):
        """Rates; ours against PyTorch's CUDA graph and against its best; ours as arithmetic and as a share of the large product."""
        number = lambda rate: f"{rate:,.0f}" if rate else "–"
        ratio = lambda a, b: f"{a / b:.2f}" if a and b else "–"
        found = [number(rates.get(name)) for name in (*self.variants, *(f"ours, {p}" for p in self.precisions))]
        arithmetic = []
        for precision in self.precisions:
            ours, kind = rates.get(f"ours, {precision}"), PEERS.get(precision, "tf32")
            same = [rates[name] for name in self.variants if name.endswith(kind) and name in rates]
            found += [ratio(ours, rates.get(f"graph channels-last {kind}")), ratio(ours, max(same, default=None))]
            # On the CPU PyTorch's "tf32" is plain f32.
            product = products.get(precision if self.on_gpu else "tf32")
            if not (ours and operations):
                arithmetic.append("–")
                continue
            share = f" ({100 * ours * operations / product:.1f} %)" if product else ""
            arithmetic.append(f"{ours * operations / 1e12:.2f} TFLOP/s{share}")
        return found + arithmetic

    def run(self):
        products = self.products()
        columns = ["network", *self.columns()]
        self.log.table("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for name in self.args.networks.split(","):
            if self.late():
                self.log.say(f"{name} was left out: the time is up")
                continue
            network = NETWORKS[name]
            rates, operations = self.measure(network)
            filters, kernel, convs, denses, units, batch, _ = network
            title = f"F {filters}, k {kernel}, conv {convs}, dense {denses}, U {units}, batch {batch}"
            if operations:
                title += f" ({operations / 1e6:.1f} MFLOP a sample)"
            self.log.table("| " + " | ".join([title, *self.cells(rates, operations, products)]) + " |")
        large = ", ".join(f"{products[kind] / 1e12:.1f} ({kind})" for kind in PRODUCTS if kind in products)
        self.log.table(
            f"\n{self.title}; medians of {self.args.rounds} round(s) in turn; samples/s, no dropout, {self.args.rows} clusters on "
            f"the device. A product of two {self.args.product}×{self.args.product} matrices by PyTorch, in TFLOP/s: {large or '–'}; "
            "in brackets the share of it in the same precision that ours reaches."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--ours", type=pathlib.Path, default=HERE.parents[1] / "target/release/examples/throughput")
    parser.add_argument("--device", default="cuda:0", help="cpu: to try the script out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--compile", nargs="?", choices=("bf16", "all"), const="all")
    parser.add_argument("--seconds", type=float, help="print what there is after so long")
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--steps", type=int, help="steps timed; by default enough for each network")
    parser.add_argument("--product", type=int, default=8192, help="rows and columns of the large product")
    args = parser.parse_args()
    if unknown := set(args.networks.split(",")) - set(NETWORKS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    Bench(args).run()


if __name__ == "__main__":
    main()
