"""Optuna's side of the measurements of `search`; see scripts/bench/README.md.

    python search_optuna.py sampler FUNCTION FIRST_SEED SEEDS TRIALS
    python search_optuna.py read JOURNAL
"""

import csv
import json
import math
import sys
import time
import warnings
from functools import cache
from pathlib import Path

import optuna

warnings.filterwarnings("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)

ALPHA = [1.0, 1.2, 3.0, 3.2]
A = [
    [10, 3, 17, 3.5, 1.7, 8],
    [0.05, 10, 17, 0.1, 8, 14],
    [3, 3.5, 1.7, 10, 17, 8],
    [17, 8, 0.05, 10, 0.1, 14],
]
P = [
    [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
    [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
    [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
    [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
]


def hartmann6(trial):
    x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(6)]
    return -sum(
        a * math.exp(-sum(A[k][i] * (x[i] - P[k][i]) ** 2 for i in range(6))) for k, a in enumerate(ALPHA)
    )


def coordinates(trial, n, low, high):
    return [trial.suggest_float(f"x{i}", low, high) for i in range(n)]


def rosenbrock(trial):
    x = coordinates(trial, 5, -2, 2)
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in zip(x, x[1:]))


def ackley(trial):
    x = coordinates(trial, 5, -20, 30)
    squares = sum(v * v for v in x) / 5
    waves = sum(math.cos(2 * math.pi * v) for v in x) / 5
    return -20 * math.exp(-0.2 * math.sqrt(squares)) - math.exp(waves) + 20 + math.e


def rastrigin(trial):
    return sum(v * v - 10 * math.cos(2 * math.pi * v) + 10 for v in coordinates(trial, 4, -4, 6))


def kinds(trial):
    a = trial.suggest_categorical("a", [0, 1, 2, 3])
    b = trial.suggest_categorical("b", [0, 1, 2])
    c = trial.suggest_categorical("c", [0, 1, 2, 3, 4])
    units = math.log2(trial.suggest_int("units", 8, 512, log=True) / 100)
    rate = math.log10(trial.suggest_float("rate", 1e-5, 1, log=True)) + [2, 3, 2.5, 1.5][a]
    share = trial.suggest_float("share", 0, 1) - [0.2, 0.7, 0.5][b]
    return (
        0.5 * rate * rate
        + 0.2 * units * units
        + 3 * share * share
        + [0.5, 0.0, 0.3, 0.8][a]
        + [0.1, 0.0, 0.4][b]
        + [0.6, 0.4, 0.0, 0.2, 0.5][c]
    )


def mixed(trial):
    rate = math.log10(trial.suggest_float("rate", 1e-5, 1e-1, log=True)) + 3.2
    depth = (trial.suggest_int("depth", 1, 12) - 7) / 3
    share = trial.suggest_float("share", 0, 1) - 0.3
    kind = [0.4, 0.0, 0.2][trial.suggest_categorical("kind", [0, 1, 2])]
    return rate * rate + depth * depth + 0.8 * rate * depth + 5 * share * share + kind * (1 + abs(share))


def network(trial):
    depth = trial.suggest_categorical("n_conv_layers", [2, 3, 4]) - 3
    dense = trial.suggest_categorical("n_dense_layers", [2, 3])
    width = math.log2(trial.suggest_categorical("n_filters", [32, 64, 128, 256]) / 128)
    kernel = trial.suggest_categorical("kernel_size", [3, 5])
    units = trial.suggest_categorical("n_dense_units", [64, 128, 256])
    dropout = (trial.suggest_categorical("dropout_rate", [0.1, 0.2, 0.3, 0.4]) - 0.2) / 0.1
    rate = math.log10(trial.suggest_float("learning_rate", 0.0001, 0.005) / 1.1e-3)
    decay = (trial.suggest_float("decay_rate", 0.95, 0.98) - 0.962) / 0.03
    return (
        0.08 * rate * rate
        + 0.004 * width * width
        + 0.006 * depth * depth
        + 0.004 * rate * width
        + 0.003 * decay * decay
        + 0.002 * dropout * dropout
        + (0.003 if kernel < 4 else 0)
        + (0.002 if dense > 2.5 else 0)
        + 0.002 * abs(units / 64 - 2)
    )


def position(n_conv_layers, n_dense_layers, n_filters, kernel_size, n_dense_units, dropout_rate, learning_rate, decay_rate):
    """Parameters mapped to 0..1; sizes and the rate by their logarithm."""
    return [
        (n_conv_layers - 2) / 2,
        n_dense_layers - 2,
        math.log2(n_filters / 8) / 2,
        (kernel_size - 3) / 2,
        math.log2(n_dense_units / 16) / 2,
        dropout_rate / 0.4,
        math.log(learning_rate / 0.0001) / math.log(200),
        (decay_rate - 0.95) / 0.03,
    ]


@cache
def recorded(table):
    """Recorded trainings: positions and F1."""
    with open(Path(__file__).with_name(table)) as file:
        rows = [[float(cell) for cell in row[:9]] for row in list(csv.reader(file))[1:]]
    return [(position(*row[:8]), row[8]) for row in rows]


def between(at, table):
    """F1 between recorded trainings, each with the weight exp(-d^2 / (2 0.2^2)); negated."""
    distances = [sum((a - b) ** 2 for a, b in zip(at, row)) for row, _ in recorded(table)]
    nearest = min(distances)
    weights = [math.exp(-(d - nearest) / (2 * 0.2 * 0.2)) for d in distances]
    return -sum(w * f1 for w, (_, f1) in zip(weights, recorded(table))) / sum(weights)


def trainings(trial):
    at = position(
        trial.suggest_categorical("n_conv_layers", [2, 3, 4]),
        trial.suggest_categorical("n_dense_layers", [2, 3]),
        trial.suggest_categorical("n_filters", [8, 12, 16, 24, 32]),
        trial.suggest_categorical("kernel_size", [3, 5]),
        trial.suggest_categorical("n_dense_units", [16, 32, 64]),
        trial.suggest_float("dropout_rate", 0, 0.4),
        trial.suggest_float("learning_rate", 0.0001, 0.02, log=True),
        trial.suggest_float("decay_rate", 0.95, 0.98),
    )
    return between(at, "trainings.csv")


def trainings_v4(trial):
    at = position(
        trial.suggest_categorical("n_conv_layers", [2, 3, 4]),
        trial.suggest_categorical("n_dense_layers", [2, 3]),
        trial.suggest_categorical("n_filters", [16, 24, 32]),
        trial.suggest_categorical("kernel_size", [3, 5]),
        trial.suggest_categorical("n_dense_units", [16, 32, 64]),
        trial.suggest_categorical("dropout_rate", [0.1, 0.2, 0.3, 0.4]),
        trial.suggest_float("learning_rate", 0.0001, 0.005),
        trial.suggest_float("decay_rate", 0.95, 0.98),
    )
    return between(at, "trainings_v4.csv")


def sample(function, first, seeds, trials):
    best = []
    for seed in range(first, first + seeds):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(function, n_trials=trials)
        best.append(study.best_value)
    print(json.dumps(best))


def read(journal):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        backend = optuna.storages.journal.JournalFileBackend(journal)
        optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
        seconds.append(time.perf_counter() - start)
    print(f"read: {sorted(seconds)[1] * 1e3:.0f} ms")


if sys.argv[1] == "sampler":
    sample(globals()[sys.argv[2]], *map(int, sys.argv[3:6]))
else:
    read(sys.argv[2])
