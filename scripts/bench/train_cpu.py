#!/usr/bin/env python3
"""Training on the CPU against Keras, in one run: samples/s of both, and the rate of a large matrix product.

Usage: scripts/bench/train_cpu.py --data DIR [--keras-python PATH] [--threads N] [--rounds N] [--networks NAME,...]

scripts/bench/train_cpu.sh sets all up and calls this. Both train on the first training rows of the split folder DIR (images
of 128x16). Needs `cargo build --release -p train --example throughput` and a Python with `tensorflow-cpu` and `pyarrow`
(--keras-python; default: this one). Each round runs everything once, one after the other; the table shows the medians of
the rounds, and beside them the fastest round of Keras, whose speed differs from process to process.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# name: filters, kernel, conv layers, dense layers, units, batch, steps of Keras timed
NETWORKS = {
    "F32": (32, 3, 2, 2, 64, 128, 29),
    "F128": (128, 3, 2, 2, 64, 128, 8),
    "F256": (256, 5, 4, 2, 256, 128, 3),
}
# Our steps for one of Keras's: both should run for seconds.
MORE_STEPS = 4
HEIGHT, WIDTH = 128, 16


def flops(filters, kernel, convs, denses, units):
    """Products and sums of a training step per sample on whole images; the images need no gradient."""
    height, width, inputs, total = HEIGHT, WIDTH, 1, 0
    for layer in range(convs + 1):
        outputs = filters // max(layer, 1)
        height -= kernel - 1
        product = 2 * kernel * inputs * outputs * height * width
        total += product * (2 if layer == 0 else 3)
        inputs = outputs
        if layer > 0:
            height, width = height // 2, width // 2
    inputs *= height * width
    for outputs in [units // (i + 1) for i in range(denses)] + [1]:
        total += 6 * inputs * outputs
        inputs = outputs
    return total


def keras(network, threads, data):
    """Samples/s of Keras; runs in a process of its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_net import simple_cnn
    from split_data import pieces

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    *shape, batch, steps = network
    model = simple_cnn(HEIGHT, WIDTH, *shape, dropout=0.1)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    rows, found = batch * steps, []
    for piece in pieces(data, "train"):
        found.append(piece)
        if sum(len(labels) for _, labels in found) >= rows:
            break
    images, labels = (np.concatenate(part)[:rows] for part in zip(*found))
    assert len(labels) == rows, f"{data} has only {len(labels)} training rows, {rows} are needed"
    images, labels = images.reshape(-1, HEIGHT, WIDTH, 1) * np.float32(0.001), labels.astype("f4")
    # The first steps trace and compile.
    model.fit(images[: 2 * batch], labels[: 2 * batch], batch_size=batch, verbose=0)
    start = time.perf_counter()
    model.fit(images, labels, batch_size=batch, verbose=0)
    seconds = time.perf_counter() - start
    return {"rate": rows / seconds, "version": f"Keras {keras.__version__}, TensorFlow {tf.__version__}"}


def run_keras(python, network, threads, data):
    request = json.dumps([network, threads, str(data)])
    command = [python, __file__, "--as-keras", request]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return json.loads(output.splitlines()[-1])


def run_ours(program, network, threads, data):
    filters, kernel, convs, denses, units, batch, steps = network
    steps *= MORE_STEPS
    options = {"filters": filters, "kernel": kernel, "conv-layers": convs, "dense-layers": denses, "units": units}
    options |= {"batch": batch, "steps": steps, "rows": batch * (steps + 3), "threads": threads, "data": data}
    command = [str(program)] + [f"--{name}={value}" for name, value in options.items()]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(re.search(r": ([\d.]+) samples/s", output)[1])


def run_product(program, threads):
    command = [str(program), "--matmul=2048", f"--threads={threads}"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(re.search(r"([\d.]+) GFLOP/s", output)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--ours", type=pathlib.Path, default=ROOT / "target/release/examples/throughput")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--as-keras", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_keras:
        print(json.dumps(keras(*json.loads(args.as_keras))))
        return
    if not args.data:
        parser.error("--data DIR is missing: a split folder that `prepare` made")
    print("| network | Keras | fastest | ours | ours / Keras | / fastest | on whole images that were | large product | share of it |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    version = ""
    for name in args.networks.split(","):
        network = NETWORKS[name]
        found = {"keras": [], "now": [], "product": []}
        for _ in range(args.rounds):
            baseline = run_keras(args.keras_python, network, args.threads, args.data)
            version = baseline["version"]
            product = run_product(args.ours, args.threads)
            now = run_ours(args.ours, network, args.threads, args.data)
            found["keras"].append(baseline["rate"])
            found["now"].append(now)
            found["product"].append(product)
            print(name, {key: round(values[-1], 1) for key, values in found.items()}, file=sys.stderr)
        median = {key: statistics.median(values) for key, values in found.items()}
        filters, kernel, convs, denses, units, batch, _ = network
        label = f"F {filters}, k {kernel}, conv {convs}, dense {denses}, U {units}, batch {batch}"
        ratio = statistics.median(now / keras for now, keras in zip(found["now"], found["keras"]))
        whole = median["now"] * flops(*network[:5]) / 1e9
        print(
            f"| {label} | {median['keras']:.0f} | {max(found['keras']):.0f} | {median['now']:.0f} "
            f"| {ratio:.2f} | {median['now'] / max(found['keras']):.2f} "
            f"| {whole:.0f} GFLOP/s | {median['product']:.0f} GFLOP/s | {whole / median['product']:.1f} |",
            flush=True,
        )
    print(f"\n{version}; {args.threads} threads each; medians of {args.rounds} round(s) in turn (the ratio: of each round's ratio); samples/s unless said.")


if __name__ == "__main__":
    main()
