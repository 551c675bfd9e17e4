#!/usr/bin/env python3
"""Compare losses and gradients of a training with Keras': same weights, same batches, same settings.

Usage: scripts/bench/exactness.py [--keras-python PATH] [--steps N] [--rate R] [--cases NAME,...] [--seed N] [--device DEVICE]

Needs `cargo build --release -p train --example exactness`, ONNX Runtime where the programs look for it, and a Python with
`tensorflow-cpu` (its interpreter is --keras-python; default: this one). Every case trains one network for --steps
batches from Keras' weights. The reference is Keras in f64; Keras in f32 against it shows what rounding alone does. The
table has, for each: the greatest relative difference of a step's loss; the greatest difference of a gradient's element,
relative to the largest one of its layer, at the first weights and at ours after the last step. Exit code 1 if one of our
gradients at the first weights differs by more than 1e-5, one at the last by more than that and than twice Keras' own in f32 (after a
training, the rows' gradients cancel to a hundredth of their sizes, and rounding stays), or one of our losses by more than 1e-4 and
by more than twice as much as Keras' own in f32.

Two values of a pool's window that differ by less than rounding, or a relu's input that near 0, let a gradient take another
way, in f32 Keras as here: right is either, and from there on two trainings part. So a row in which such a choice lies within
1e-6 of the terms that its value is a sum of (f64 tells) gives its place in the batch to another row of it; if that is so for
more than half of a batch, it stays as it is. Gradients are taken over the first rows without near ties. The table counts the rows.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A rate at which rounding does not grow: at 1e-4 and above Keras in f32 leaves its own f64 losses by more than 1e-4.
HEIGHT, WIDTH, BATCH, BATCHES, RATE, DECAY = 128, 16, 128, 20, 3e-5, 0.96
LOSS_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-5
# Of the sum of the absolute terms of a value: what f32 can't tell apart, and what f64 can't.
NEAR, SAME = 1e-6, 1e-12
# name: filters, kernel, conv layers, dense layers, units
NETWORKS = {"F32": (32, 3, 2, 2, 64), "F64": (64, 5, 3, 3, 128)}
# name: network, keys of `model_parameters`
CASES = {
    "plain": ("F32", {}),
    "wide": ("F64", {}),
    "label_smoothing": ("F32", {"label_smoothing": 0.1}),
    "class_weight": ("F32", {"class_weight": {"0": 0.6, "1": 3.5}}),
    "focal": ("F32", {"focal_loss": {"gamma": 2.0}}),
    "focal_all": ("F32", {"focal_loss": {"gamma": 1.5, "alpha": 0.25}, "label_smoothing": 0.1, "class_weight": {"0": 0.6, "1": 3.5}}),
    "adamw": ("F32", {"weight_decay": 10.0}),
    "global_clipnorm": ("F32", {"global_clipnorm": 0.05}),
    "clipnorm": ("F32", {"clipnorm": 0.02}),
    "clipvalue": ("F32", {"clipvalue": 0.002}),
    "cosine": ("F32", {"learning_rate_schedule": {"name": "cosine", "alpha": 0.1, "warmup_steps": 19}}),
}


def images(random):
    """Sparse tracks, steep or flat; the label is the direction, one in six at random."""
    import numpy as np

    rows = BATCH * BATCHES
    found = np.zeros((rows, HEIGHT, WIDTH), "f4")
    labels = (random.random(rows) < 0.3).astype("f4")
    for row in range(rows):
        steep = (labels[row] > 0.5) != (random.random() < 1 / 6)
        tick, channel = random.integers(4, HEIGHT - 40), random.integers(0, WIDTH - 6)
        for i in range(random.integers(10, 30)):
            t, c = (tick + i, channel + i // 8) if steep else (tick + i // 4, channel + i % 6)
            found[row, t, c] = random.uniform(60, 1500)
    return found, labels


class Keras:
    """A case on Keras' side, in a process and of a precision of its own."""

    def __init__(self, folder, name, steps, rate, seed, precision):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import keras
        import numpy as np
        import tensorflow as tf

        from keras_net import simple_cnn

        self.np, self.tf, self.keras = np, tf, keras
        self.folder, self.steps, self.precision = pathlib.Path(folder), steps, precision
        network, self.training = CASES[name]
        keras.utils.set_random_seed(seed)
        keras.config.set_floatx(precision)
        self.model = simple_cnn(HEIGHT, WIDTH, *NETWORKS[network], activation=None)
        self.variables = self.model.trainable_variables
        self.seed, self.rate = seed, rate
        self.shape = dict(zip(("filters", "kernel", "conv_layers", "dense_layers", "units"), NETWORKS[network]))

    def flat(self, tensors):
        return self.np.concatenate([self.np.asarray(t).ravel() for t in tensors]).astype("f4")

    def load(self, name):
        return self.np.fromfile(self.folder / name, "<f4")

    def write(self, folder, images, labels, params, steps):
        """What the example `exactness` reads."""
        folder.mkdir(exist_ok=True)
        for name, array in (("images", images), ("labels", labels), ("params", params)):
            array.tofile(folder / f"{name}.f32")
        shape = self.shape | {"height": HEIGHT, "width": WIDTH, "dropout": 0.0}
        request = {"network": shape, "normalization": 0.001, "batch": BATCH, "steps": steps, "learning_rate": self.rate}
        (folder / "request.json").write_text(json.dumps(request | {"decay_rate": DECAY, "training": self.training}))

    def make(self):
        """Weights and batches."""
        found, labels = images(self.np.random.default_rng(self.seed + 6))
        self.write(self.folder, found, labels, self.flat(self.variables), self.steps)

    def prepare(self):
        """Read what `make` wrote; loss and optimiser."""
        keras, np = self.keras, self.np
        images_f4 = self.load("images.f32").reshape(-1, HEIGHT, WIDTH, 1)
        self.x = (images_f4 * np.float32(0.001)).astype(self.precision)
        self.y = self.load("labels.f32").astype(self.precision)
        extra = self.training
        smoothing, focal = extra.get("label_smoothing", 0.0), extra.get("focal_loss")
        if focal:
            alpha = focal.get("alpha")
            self.loss = keras.losses.BinaryFocalCrossentropy(
                alpha is not None, alpha or 0.25, focal["gamma"], from_logits=True, label_smoothing=smoothing
            )
        else:
            self.loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
        weights = extra.get("class_weight", {"0": 1.0, "1": 1.0})
        self.weigh = np.where(self.y > 0.5, weights["1"], weights["0"]).astype(self.precision)
        self.optimizer = self.build_optimizer()
        self.optimizer.build(self.variables)
        self.compiled = self.tf.function(self.loss_and_gradients)

    def build_optimizer(self):
        schedules, extra = self.keras.optimizers.schedules, self.training
        options = extra.get("learning_rate_schedule")
        if options:
            warmup = options["warmup_steps"]
            rate = schedules.CosineDecay(
                self.rate / (warmup + 1), self.steps - warmup, options["alpha"], warmup_target=self.rate, warmup_steps=warmup
            )
        else:
            rate = schedules.ExponentialDecay(self.rate, 10000, DECAY)
        clips = {key: extra[key] for key in ("clipvalue", "clipnorm", "global_clipnorm") if key in extra}
        if "weight_decay" not in extra:
            return self.keras.optimizers.Adam(rate, **clips)
        optimizer = self.keras.optimizers.AdamW(rate, weight_decay=extra["weight_decay"], **clips)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    def loss_and_gradients(self, images, labels, weights):
        with self.tf.GradientTape() as tape:
            value = self.loss(labels[:, None], self.model(images, training=True), sample_weight=weights[:, None])
        return value, tape.gradient(value, self.variables)

    def set_weights(self, name):
        values, start = self.load(name), 0
        for variable in self.variables:
            size = int(self.np.prod(variable.shape))
            variable.assign(values[start : start + size].reshape(variable.shape))
            start += size

    def gradient(self, rows):
        """Over these rows, after clipping; all layers in one vector."""
        _, found = self.compiled(self.x[rows], self.y[rows], self.weigh[rows])
        return self.np.concatenate([self.np.asarray(g, "f8").ravel() for g in self.optimizer._clip_gradients(found)])

    def step(self, rows):
        """The loss of a step of the training; the weights move."""
        value, slopes = self.compiled(self.x[rows], self.y[rows], self.weigh[rows])
        self.optimizer.apply(slopes, self.variables)
        return float(value)

    def train(self):
        """The training in f64, which chooses the rows of every batch: written for the others, one batch after the other."""
        np = self.np
        self.prepare()
        self.set_weights("params.f32")
        order, losses, replaced, kept = [], [], 0, 0
        for step in range(self.steps):
            rows = np.arange(BATCH) + step % BATCHES * BATCH
            near = self.near_ties(self.x[rows])
            if near.sum() <= BATCH // 2:
                rows[near] = rows[~near][: near.sum()]
                replaced += int(near.sum())
            else:
                kept += 1
            losses.append(self.step(rows))
            order.append(rows)
        order = np.concatenate(order)
        images_f4 = self.load("images.f32").reshape(-1, HEIGHT * WIDTH)[order]
        self.write(self.folder, images_f4, self.load("labels.f32")[order], self.load("params.f32"), self.steps)
        np.savez(self.folder / "training.npz", losses=losses, replaced=replaced, kept=kept)

    def near_ties(self, x):
        """Whether a relu's sign or a pool's winner lies within rounding, for each row."""
        tf, layers = self.tf, self.keras.layers
        x = tf.constant(x)
        near = tf.zeros(len(x), bool)
        within = lambda gap, terms: tf.reduce_any(tf.reshape((gap <= NEAR * terms) & (gap > SAME * terms), (len(x), -1)), 1)
        terms = None
        for layer in self.model.layers[:-1]:
            if isinstance(layer, layers.MaxPooling2D):
                windows = [tf.image.extract_patches(v, (1, 2, 2, 1), (1, 2, 2, 1), (1, 1, 1, 1), "VALID") for v in (x, terms)]
                values, terms = (tf.reshape(w, (*w.shape[:3], 4, -1)) for w in windows)
                best = tf.reduce_max(values, 3, keepdims=True)
                # Where nothing is above 0 the gradient ends anyway.
                near |= within(tf.where(best > 0, best - values, 0), terms)
                x = best[:, :, :, 0]
            elif isinstance(layer, layers.Flatten):
                x = tf.reshape(x, (len(x), -1))
            else:
                product = tf.matmul if isinstance(layer, layers.Dense) else lambda a, b: tf.nn.conv2d(a, b, 1, "VALID")
                z = product(x, layer.kernel) + layer.bias
                terms = product(tf.abs(x), tf.abs(layer.kernel)) + tf.abs(layer.bias)
                near |= within(tf.abs(z), terms)
                x = tf.nn.relu(z)
        return near.numpy()

    def clear_rows(self):
        """The first rows, a batch of them, without near ties, and how many were left out for it."""
        np, chosen = self.np, []
        for start in range(0, len(self.x), BATCH):
            rows = np.arange(start, start + BATCH)
            chosen += list(rows[~self.near_ties(self.x[rows])])
            if len(chosen) >= BATCH:
                chosen = np.array(chosen[:BATCH])
                return chosen, int(chosen[-1]) + 1 - BATCH
        sys.exit(f"only {len(chosen)} of {len(self.x)} rows have no near ties")

    def reference(self):
        """In f64, at both ends: the rows to compare gradients over, written for us, and the gradients."""
        self.prepare()
        found = {}
        for end, weights in (("last", "last.f32"), ("first", "params.f32")):
            self.set_weights(weights)
            rows, found[f"{end}_left_out"] = self.clear_rows()
            found[end], found[f"{end}_rows"] = self.gradient(rows), rows
            images_f4 = self.load("images.f32").reshape(-1, HEIGHT * WIDTH)[rows]
            self.write(self.folder / end, images_f4, self.load("labels.f32")[rows], self.load(weights), 1)
        self.np.savez(self.folder / "reference.npz", **found, **self.np.load(self.folder / "training.npz"))

    def furthest(self, found, reference):
        """The greatest difference relative to the largest element of the layer, and the layer."""
        start, worst = 0, (0.0, "")
        for kernel, bias in zip(self.variables[::2], self.variables[1::2]):
            size = int(self.np.prod(kernel.shape) + self.np.prod(bias.shape))
            here, there = found[start : start + size], reference[start : start + size]
            start += size
            worst = max(worst, (float(abs(here - there).max() / abs(there).max()), kernel.path.split("/")[-2]))
        return worst

    def compare(self):
        """Differences of ours and of this precision from the reference."""
        self.prepare()
        np, tf = self.np, self.tf
        reference = np.load(self.folder / "reference.npz")
        ours, keras = {"losses": self.load("losses.f32").astype("f8")}, {}
        for end, weights in (("last", "last.f32"), ("first", "params.f32")):
            self.set_weights(weights)
            keras[end] = self.gradient(reference[f"{end}_rows"])
            ours[end] = self.load(f"{end}/gradient_first.f32").astype("f8")
        keras["losses"] = np.array([self.step(slice(step * BATCH, (step + 1) * BATCH)) for step in range(self.steps)])
        result = {"loss": [float(reference["losses"][at]) for at in (0, -1)]}
        result["left_out"] = [int(reference[name]) for name in ("replaced", "kept", "first_left_out", "last_left_out")]
        for who, numbers in (("ours", ours), ("keras", keras)):
            result[who] = {"losses": float(abs(numbers["losses"] / reference["losses"] - 1).max())}
            result[who] |= {end: self.furthest(numbers[end], reference[end]) for end in ("first", "last")}
        versions = f"Keras {self.keras.__version__}, TensorFlow {tf.__version__}, NumPy {np.__version__}"
        return result | {"versions": f"{versions}, Python {sys.version.split()[0]}"}


def run_keras(python, *request):
    """One of the methods `make`, `reference` and `compare` in a process of its own."""
    command = [python, __file__, "--as-keras", json.dumps(request)]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if found.returncode:
        sys.exit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def run_case(args, name):
    """All of a case; what `compare` found."""
    with tempfile.TemporaryDirectory() as folder:
        keras = lambda what, precision: run_keras(
            args.keras_python, what, folder, name, args.steps, args.rate, args.seed, precision
        )
        ours = lambda of: subprocess.run([str(args.ours), f"{folder}/{of}", f"--device={args.device}"], check=True)
        keras("make", "float32")
        keras("train", "float64")
        ours("")
        keras("reference", "float64")
        ours("first")
        ours("last")
        return keras("compare", "float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--ours", type=pathlib.Path, default=ROOT / "target/release/examples/exactness")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--as-keras", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_keras:
        what, *request = json.loads(args.as_keras)
        print(json.dumps(getattr(Keras(*request), what)()))
        return
    print("| case | network | loss, first and last step | losses: ours | Keras f32 | rows replaced (batches as they were); left out, first and last "
          "| gradients, first weights: ours | Keras f32 | last weights: ours | Keras f32 |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    missed, versions = [], ""
    for name in args.cases.split(","):
        found = run_case(args, name)
        ours, keras, versions = found["ours"], found["keras"], found["versions"]
        good = ours["losses"] <= max(LOSS_LIMIT, 2 * keras["losses"])
        good &= ours["first"][0] <= GRADIENT_LIMIT and ours["last"][0] <= max(GRADIENT_LIMIT, 2 * keras["last"][0])
        missed += [] if good else [name]
        cells = [name, CASES[name][0], ", ".join(f"{loss:.4f}" for loss in found["loss"])]
        cells += [f"{ours['losses']:.1e}", f"{keras['losses']:.1e}"]
        cells += ["{} ({}); {}, {}".format(*found["left_out"])]
        cells += [f"{who[at][0]:.1e} ({who[at][1]})" for at in ("first", "last") for who in (ours, keras)]
        print("| " + " | ".join(cells) + " |", flush=True)
    verdict = f"NOT within the limits: {', '.join(missed)}" if missed else "All within the limits"
    print(f"\n{versions}; rate {args.rate:g}, {args.steps} steps, seed {args.seed}, on {args.device}. {verdict}.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
