#!/usr/bin/env python3
"""PyTorch's speed on a training step of one network, for a comparison on the same GPU in the same run.

Usage: torch_peer.py [--filters 32] [--kernel 3] [--conv-layers 2] [--dense-layers 2] [--units 64] [--batch 128] [--dropout 0]
                     [--height 128] [--width 16] [--rows 65536] [--steps 200] [--compile [bf16|all]]
       torch_peer.py --product 8192

The data set (random numbers: the rate does not depend on them) lies on the GPU in the precision of the products, and every
step gathers its batch there by a random permutation. Prints a line a variant as soon as it is known: samples/s and
milliseconds a step. `--compile` adds torch.compile (max-autotune) with CUDA graphs, which takes minutes to tune: in
bf16, or in tf32 too. A variant that fails is named on standard error, and the others go on. `--product N`: instead the
rate of a product of two N×N matrices of random numbers in each precision. Needs PyTorch with CUDA.
"""

import argparse
import statistics
import sys
import time
import traceback

import torch

from torch_net import allow_tf32
from torch_train import SHAPE, Trainer, Way

VARIANTS = {
    "eager tf32": Way("tf32", graph=False, channels_last=False),
    "graph channels-last tf32": Way("tf32"),
    "graph channels-last bf16": Way("bf16"),
    "compiled graph channels-last bf16": Way("bf16", compiled=True),
    "compiled graph channels-last tf32": Way("tf32", compiled=True),
}


def rate(q, height, width, batch, steps, way, rows=32768, device="cuda"):
    """Samples a second of training steps."""
    images = torch.rand(rows, 1, height, width, device=device).to(way.kind)
    labels = torch.randint(0, 2, (rows,), device=device).float()
    trainer = Trainer(q, (images, labels), batch, way)
    steps = min(steps, trainer.steps - 10)
    trainer.start_epoch()
    for _ in range(10):
        trainer.run()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.run()
    wait()
    return steps * batch / (time.perf_counter() - begin)


def product_rate(size, kind, device, times=20):
    """FLOP/s of a product of two `size`×`size` matrices of normal random numbers: the median of `times` products."""
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    out = torch.empty_like(a)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(5 + times):
        wait()
        begin = time.perf_counter()
        torch.matmul(a, b, out=out)
        wait()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(seconds[5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"filters": 32, "kernel": 3, "conv-layers": 2, "dense-layers": 2, "units": 64, "batch": 128}
    for name, value in (sizes | {"height": 128, "width": 16, "rows": 65536, "steps": 200}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--compile", nargs="?", choices=("bf16", "all"), const="all", help="torch.compile too, in bf16 or in both")
    parser.add_argument("--product", type=int, metavar="N", help="time a product of two N×N matrices instead")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the program out")
    a = parser.parse_args()
    allow_tf32(True)
    if a.product:
        kinds = {"tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        for name, kind in kinds.items():
            print(f"product of {a.product}, {name}: {product_rate(a.product, kind, a.device) / 1e12:.3f} TFLOP/s", flush=True)
        return
    q = {theirs: getattr(a, ours) for theirs, ours in SHAPE.items()} | {"learning_rate": 5e-4, "decay_rate": 0.96}
    name = torch.cuda.get_device_name() if a.device == "cuda" else "the CPU"
    print(f"PyTorch {torch.__version__} on {name}", flush=True)
    for variant, way in VARIANTS.items():
        if way.compiled and a.compile not in ("all", way.precision):
            continue
        begin = time.perf_counter()
        try:
            found = rate(q, a.height, a.width, a.batch, a.steps, way, a.rows, a.device)
        except Exception:
            print(f"{variant} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        print(f"{variant}: ready and measured in {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)
        print(f"{variant}: {found:.0f} samples/s, {a.batch / found * 1e3:.3f} ms/step", flush=True)


if __name__ == "__main__":
    main()
