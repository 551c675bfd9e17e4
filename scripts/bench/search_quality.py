"""Compare the samplers of `search` with Optuna's TPE: a row per function and number of trials.

    cargo build --release -p search --example study_bench
    python search_quality.py target/release/examples/study_bench [FIRST_SEED] [SEEDS] [FUNCTION...]

Prints the median best value of each, and p of the Mann-Whitney test of our TPE against Optuna's.
"""

import json
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


print("| function | trials | TPE | Optuna | p | Sobol | random |\n|---|---|---|---|---|---|---|")
for function in FUNCTIONS:
    for trials in ["25", "100"]:
        optuna = best(OPTUNA)
        tpe, sobol, random = (best([BENCH], sampler) for sampler in ["tpe", "sobol", "random"])
        p = mannwhitneyu(tpe, optuna).pvalue
        medians = [f"{median(values):.5f}" for values in [tpe, optuna, sobol, random]]
        print(f"| {function} | {trials} | {medians[0]} | {medians[1]} | {p:.2f} | {medians[2]} | {medians[3]} |", flush=True)
