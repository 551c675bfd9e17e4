"""A search in PyTorch, for comparison with `train --study` on the same GPU and data.

Usage: search_torch.py STUDY DATA [--batch 128] [--steps 150]
       search_torch.py --optuna STUDY|CONFIG DATA [--output DIR] [--seconds N] [--workers N] [--precision bf16|tf32|f32]
                       [--compile] [--sampler tpe|random] [--seed N]
       search_torch.py --finish STUDY|CONFIG DATA --output DIR

Without `--optuna`: the rate of PyTorch on every configuration of the finished study STUDY, and the time that its trials
would take. For every finished trial the same network is built in PyTorch, with the data on the GPU, channels-last, in
bf16, dropout included, the step captured as a CUDA graph (torch.compile left out: it takes minutes a configuration). Its
rate times the rows and epochs of the trial is the time that PyTorch would take for it; validation and everything else
count as nothing. Of DATA only the manifest is read: PyTorch's rate does not depend on the pixels.

With `--optuna` the study really runs: Optuna's TPE with the space, seed and budget of STUDY (a study folder or a config
file), PyTorch on the clusters of the split folder DATA (all on the device), early stopping, the threshold from the
validation split. Ends when the budget or the time is spent; the best model then gets its F1 on the test split. Several
workers are processes that share the GPU and a journal. Needs `optuna`, and `pyarrow` or numpy arrays (split_data.py).
With --output every epoch, trial and its weights are written there at once (peer_files.py), so that a search that was killed
still has a best model: `--finish` computes its F1 on the test split, without Optuna.
"""

import argparse
import json
from pathlib import Path

from split_data import manifest


def rates(args):
    """A line for every finished trial, and the sums."""
    from torch_net import allow_tf32
    from torch_peer import rate
    from torch_train import Way

    allow_tf32(True)
    shape = manifest(args.data)
    rows = shape["splits"]["train"]["rows"]
    known, total, ours = {}, 0.0, 0.0
    for folder in sorted((args.study / "trials").iterdir()):
        if not (folder / "result.json").exists():
            continue
        result = json.loads((folder / "result.json").read_text())
        q = json.loads((folder / "trial.json").read_text())["params"]
        key = tuple(q[name] for name in ("n_filters", "kernel_size", "n_conv_layers", "n_dense_layers", "n_dense_units"))
        if key not in known:
            known[key] = rate(q, shape["height"], shape["width"], args.batch, args.steps, Way("bf16"))
        seconds = rows * result["epochs"] / known[key]
        total, ours = total + seconds, ours + result["seconds"]
        mine = rows * result["epochs"] / result["seconds"]
        print(
            f"trial {folder.name} F {key[0]} k {key[1]} conv {key[2]}: {result['epochs']} epochs, PyTorch {known[key]:.0f} samples/s"
            f" = {seconds:.1f} s; ours {mine:.0f} with validation = {result['seconds']:.1f} s",
            flush=True,
        )
    print(f"PyTorch, training steps alone: {total:.0f} s; ours, sum over the trials: {ours:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=128, help="rows of a step when rates are measured")
    parser.add_argument("--steps", type=int, default=150, help="steps timed when rates are measured")
    parser.add_argument("--optuna", action="store_true", help="run the study")
    parser.add_argument("--finish", action="store_true", help="report on the search in --output, which ended or was stopped")
    parser.add_argument("--output", type=Path, help="new folder for the search")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--seed", type=int, help="by default that of the study or config")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for all of it, reading included")
    parser.add_argument("--workers", type=int, default=1, help="processes that run trials at the same time")
    parser.add_argument("--precision", choices=("bf16", "tf32", "f32"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile, max-autotune; its time counts")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the program out")
    args = parser.parse_args()
    if args.finish and not args.output:
        parser.error("--finish needs --output")
    if args.optuna or args.finish:
        # Imported late: what is set for torch.compile must be there before PyTorch, in the workers too.
        import torch_study

        torch_study.finish(args) if args.finish else torch_study.run(args)
    else:
        rates(args)


if __name__ == "__main__":
    main()
