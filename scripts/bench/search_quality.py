"""Compare the samplers of `search` with Optuna's TPE: a row per function and number of trials.

    cargo build --release -p search --example study_bench
    python search_quality.py target/release/examples/study_bench [FIRST_SEED] [SEEDS] [FUNCTION...]

Prints the median best value of each, p of the Mann-Whitney test of our TPE against Optuna's, and in how many of 2,000
draws of 30 seeds for each the median of ours is no worse.
"""

import json
import random as draws
import subprocess
import sys
from pathlib import Path
from statistics import median

from scipy.stats import mannwhitneyu

BENCH, FIRST, SEEDS = sys.argv[1], *(sys.argv[2:4] or ["1000", "30"])
FUNCTIONS = sys.argv[4:] or ["hartmann6", "mixed", "network", "trainings"]
OPTUNA = [sys.executable, str(Path(__file__).with_name("search_optuna.py"))]


def best(command, *sampler):
    """Best values of all seeds."""
    run = subprocess.run([*command, "sampler", function, FIRST, SEEDS, trials, *sampler], check=True, capture_output=True)
    return json.loads(run.stdout)


def no_worse(tpe, optuna):
    """Share of draws of 30 seeds in which our median is no worse."""
    draw = draws.Random(0)
    return sum(median(draw.choices(tpe, k=30)) <= median(draw.choices(optuna, k=30)) for _ in range(2000)) / 2000


print("| function | trials | TPE | Optuna | p | no worse | Sobol | random |\n|---|---|---|---|---|---|---|---|")
for function in FUNCTIONS:
    for trials in ["25", "100"]:
        optuna = best(OPTUNA)
        tpe, sobol, random = (best([BENCH], sampler) for sampler in ["tpe", "sobol", "random"])
        p = mannwhitneyu(tpe, optuna).pvalue
        medians = [f"{median(values):.5f}" for values in [tpe, optuna, sobol, random]]
        chance = f"{100 * no_worse(tpe, optuna):.0f} %"
        medians.insert(2, f"{p:.1g} | {chance}")
        print(f"| {function} | {trials} | {' | '.join(medians)} |", flush=True)
