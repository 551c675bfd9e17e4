"""Train a Keras twin of a study's best trial on the same splits and compare the F1 of both on the test split.

Usage: keras_twin.py STUDY DATA REPORT [--trial N] [--seeds 3]

STUDY/trials/NNNN/trial.json gives the configuration, DATA the splits, REPORT/report.json our numbers. Same
architecture, batch size, rate schedule, dropout and early stopping; the threshold is the one with the best F1 on
the validation split. Needs tensorflow-cpu, pyarrow and scikit-learn. Prints one line a seed and a comparison.
"""
import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from sklearn.metrics import f1_score, precision_recall_curve

from keras_net import simple_cnn
from split_data import pieces

p = argparse.ArgumentParser()
p.add_argument("study", type=Path)
p.add_argument("data", type=Path)
p.add_argument("report", type=Path)
p.add_argument("--trial", type=int)
p.add_argument("--seeds", type=int, default=3)
a = p.parse_args()

report = json.loads((a.report / "report.json").read_text())
number = a.trial
if number is None:
    results = {d: json.loads((d / "result.json").read_text()) for d in sorted((a.study / "trials").iterdir()) if (d / "result.json").exists()}
    results = {d: r for d, r in results.items() if r["state"] == "COMPLETE"}
    number = int(max(results, key=lambda d: results[d]["value"]).name)
trial = json.loads((a.study / "trials" / f"{number:04}" / "trial.json").read_text())
q = trial["params"]
height, width = trial["input_shape"]
print(f"trial {number}: {q}")


def load(split):
    images, labels = (np.concatenate(part) for part in zip(*pieces(a.data, split)))
    scale = 0.001 if trial["normalization"] == "scale" else 1.0
    return images.reshape(-1, height, width, 1) * np.float32(scale), labels.astype(int)


train, validation, test = load("train"), load("validation"), load("test")


def build():
    shape = [q[name] for name in ("n_filters", "kernel_size", "n_conv_layers", "n_dense_layers", "n_dense_units")]
    net = simple_cnn(height, width, *shape, dropout=q.get("dropout_rate", 0.0))
    rate = keras.optimizers.schedules.ExponentialDecay(q["learning_rate"], 10000, q["decay_rate"])
    net.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return net


def best_threshold(scores, labels):
    precision, recall, cuts = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return cuts[min(int(f1.argmax()), len(cuts) - 1)], f1.max()


def balanced(labels, called):
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    return f1_score(labels, called, sample_weight=weights)


stop = trial["early_stopping"]
ours = {"own mix": report["f1"]["main_track"], "50:50": report["balanced"]["f1"]["main_track"]}
found = []
for seed in range(a.seeds):
    keras.utils.set_random_seed(seed)
    net = build()
    monitor = "val_loss" if stop["monitor"] == "val_f1" else stop["monitor"]
    early = keras.callbacks.EarlyStopping(monitor=monitor, patience=stop["patience"], restore_best_weights=stop["restore_best_weights"])
    history = net.fit(*train, validation_data=validation, epochs=trial["epochs"], batch_size=q.get("batch_size", trial["batch_size"]), callbacks=[early], verbose=0)
    threshold, val_f1 = best_threshold(net.predict(validation[0], verbose=0)[:, 0], validation[1])
    called = (net.predict(test[0], verbose=0)[:, 0] >= threshold).astype(int)
    found.append((f1_score(test[1], called), balanced(test[1], called)))
    print(f"keras {keras.__version__} seed {seed}: {len(history.history['loss'])} epochs, val F1 {val_f1:.4f}, test F1 own mix {found[-1][0]:.4f}, 50:50 {found[-1][1]:.4f}", flush=True)
mean = np.mean(found, axis=0)
for (name, value), twin in zip(ours.items(), mean):
    print(f"{name}: mt-identifier {value:.4f}, Keras mean {twin:.4f}, difference {value - twin:+.4f}")
