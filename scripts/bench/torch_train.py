"""One training in PyTorch as `train` does it: rate falling by the step, no row lost, early stopping, best F1 on validation."""

import contextlib
import dataclasses
import math
import time

import torch
import torch.nn.functional as F

from split_data import manifest, pieces
from torch_net import Net, captured

# Rows scored at a time: enough for a GPU, and small beside its memory for the widest networks.
SCORED = 2048
# Steps before a capture.
WARM_UP = 5
# `params` of a trial that the network is made of, and the network's names of them.
SHAPE = {
    "n_filters": "filters",
    "kernel_size": "kernel",
    "n_conv_layers": "conv_layers",
    "n_dense_layers": "dense_layers",
    "n_dense_units": "units",
    "dropout_rate": "dropout",
}


@dataclasses.dataclass
class Way:
    """How to compute, which changes the speed and the rounding only."""

    precision: str = "bf16"
    compiled: bool = False
    graph: bool = True
    channels_last: bool = True

    def autocast(self, device):
        if self.precision == "bf16":
            # In a captured graph the cast weights must not come from a cache.
            return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    @property
    def layout(self):
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def kind(self):
        """Type of the images on the device."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclasses.dataclass
class Outcome:
    """What a training came to; `weights` are those that its early stopping restores."""

    epochs: int
    best_epoch: int
    seconds: float
    val_f1: float
    val_accuracy: float
    val_loss: float
    threshold: float
    weights: dict
    in_time: bool
    # Of `seconds`: until the first step could be taken (torch.compile, capture), and scoring the validation rows.
    start_seconds: float
    validation_seconds: float
    compiled: bool


def load(data, split, scale, device, dtype):
    """Images `[rows, 1, height, width]` times `scale` and labels `[rows]` in f32, all on the device."""
    shape = manifest(data)
    height, width, rows = shape["height"], shape["width"], shape["splits"][split]["rows"]
    images, labels = torch.empty(rows, 1, height, width, device=device, dtype=dtype), torch.empty(rows, device=device)
    start = 0
    for pixels, is_main in pieces(data, split):
        end = start + len(is_main)
        found = torch.as_tensor(pixels, device=device).view(-1, 1, height, width)
        images[start:end] = (found * scale).to(dtype)
        labels[start:end] = torch.as_tensor(is_main.astype("f4"), device=device)
        start = end
    assert start == rows, f"{data}/{split} has {start} rows, its manifest says {rows}"
    return images, labels


def network(q, height, width, device, layout=torch.channels_last):
    shape = {ours: q[theirs] for theirs, ours in SHAPE.items() if theirs in q}
    return Net(height, width, **shape).to(device, memory_format=layout)


@torch.no_grad()
def scores(net, images, way):
    """Logits `[rows]`."""
    net.eval()
    found = []
    for piece in images.split(SCORED):
        with way.autocast(images.device):
            found.append(net(piece.contiguous(memory_format=way.layout)).float())
    net.train()
    return torch.cat(found)


def best_cut(logits, labels):
    """The best F1 of the main class over all thresholds, and a threshold half-way to the next lower score."""
    order = logits.argsort(descending=True)
    sorted_logits, hits = logits[order].double(), labels[order].double().cumsum(0)
    called = torch.arange(1, len(labels) + 1, device=labels.device)
    f1 = 2 * hits / (called + hits[-1])
    # Equal scores are called together.
    f1[:-1][sorted_logits[:-1] == sorted_logits[1:]] = 0
    best = int(f1.argmax())
    below = sorted_logits[min(best + 1, len(f1) - 1)]
    return float(f1[best]), float((sorted_logits[best] + below) / 2)


def f1_at(logits, labels, threshold):
    """F1 of the main class as the rows are, and weighted to as many of either class."""
    called, is_main = logits >= threshold, labels > 0.5
    hits, false = (called & is_main).sum().double(), (called & ~is_main).sum().double()
    main = is_main.sum().double()
    balanced = false * main / (len(labels) - main)
    return [float(2 * hits / (main + hits + wrong)) for wrong in (false, balanced)]


def validate(net, validation, way):
    images, labels = validation
    logits = scores(net, images, way)
    loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double())
    accuracy = ((logits >= 0) == (labels > 0.5)).double().mean()
    f1, threshold = best_cut(logits, labels)
    return {"val_loss": float(loss), "val_accuracy": float(accuracy), "val_f1": f1, "threshold": threshold}


class Trainer:
    """The step of one configuration and what it works on: `run` gathers the next batch on the device and learns from it."""

    def __init__(self, q, train, batch, way):
        self.images, self.labels = train
        self.rows, device = len(self.labels), self.labels.device
        height, width = self.images.shape[2:]
        self.q, self.way = q, way
        self.steps, self.taken = -(-self.rows // batch), 0
        self.net = network(q, height, width, device, way.layout)
        on_gpu = device.type == "cuda"
        self.rate = torch.tensor(q["learning_rate"], device=device)
        self.adam = torch.optim.Adam(self.net.parameters(), self.rate, eps=1e-7, fused=on_gpu or None, capturable=on_gpu)
        # A row for each step, and some for the steps that warm up. Slots past the last cluster repeat the first one at weight 0.
        table = (self.steps + WARM_UP, batch)
        self.order = torch.zeros(table, dtype=torch.long, device=device)
        self.rates = torch.zeros(table[0], device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.weights = None
        if self.rows % batch:
            self.weights = (torch.arange(self.order.numel(), device=device) < self.rows).float().view(table)
        self.loss = self.plain_loss
        if way.compiled:
            # After eight networks the compiler would give up.
            torch._dynamo.reset()
            self.loss = torch.compile(self.plain_loss, mode="max-autotune-no-cudagraphs", dynamic=False)
        self.run = self.step
        if on_gpu and way.graph:
            start = [p.detach().clone() for p in self.net.parameters()]
            self.run = captured(self.step, WARM_UP)
            self.restart(start)

    def plain_loss(self, x, y, weight):
        with self.way.autocast(x.device):
            logits = self.net(x)
        if weight is None:
            return F.binary_cross_entropy_with_logits(logits.float(), y)
        return F.binary_cross_entropy_with_logits(logits.float(), y, weight, reduction="sum") / weight.sum()

    def step(self):
        rows = self.order.index_select(0, self.at)[0]
        weight = None if self.weights is None else self.weights.index_select(0, self.at)[0]
        torch.index_select(self.rates, 0, self.at, out=self.rate.view(1))
        x = self.images.index_select(0, rows).contiguous(memory_format=self.way.layout)
        self.adam.zero_grad(set_to_none=True)
        self.loss(x, self.labels.index_select(0, rows), weight).backward()
        self.adam.step()
        self.at.add_(1)

    @torch.no_grad()
    def restart(self, start):
        """Forget the steps that warmed up."""
        for parameter, value in zip(self.net.parameters(), start):
            parameter.copy_(value)
        for state in self.adam.state.values():
            for value in state.values():
                value.zero_()

    def start_epoch(self):
        """A new order, the epoch's rates."""
        device = self.order.device
        self.order.view(-1)[: self.rows] = torch.randperm(self.rows, device=device)
        steps = torch.arange(len(self.rates), device=device, dtype=torch.double) + self.taken
        self.rates.copy_(self.q["learning_rate"] * self.q["decay_rate"] ** (steps / 10000))
        self.at.zero_()
        self.taken += self.steps

    def epoch(self):
        self.start_epoch()
        for _ in range(self.steps):
            self.run()


def ready(q, train, batch, way):
    """A trainer; without torch.compile where that fails, which is said."""
    try:
        return Trainer(q, train, batch, way)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if not way.compiled:
            raise
        print(f"torch.compile failed, this training goes on without: {error!r}", flush=True)
        return Trainer(q, train, batch, dataclasses.replace(way, compiled=False))


def train(q, experiment, splits, way, deadline, report=lambda *_: None):
    """Train until the last epoch, early stopping, or the `deadline` (`time.time()`).

    `report` is called after each epoch with its number, validation F1, and seconds of training and of validation.
    """
    begin = time.time()
    trainer = ready(q, splits["train"], q.get("batch_size", experiment["batch_size"]), way)
    start_seconds = time.time() - begin
    stop = experiment["early_stopping"]
    sign = -1 if stop["monitor"] == "val_loss" else 1
    best, found, best_epoch, epoch, scoring = -math.inf, None, 0, 0, 0.0
    for epoch in range(1, experiment["epochs"] + 1):
        epoch_begin = time.time()
        trainer.epoch()
        # The steps are only queued so far; without this wait the validation would seem to take their time.
        if trainer.order.is_cuda:
            torch.cuda.synchronize()
        trained = time.time()
        last = validate(trainer.net, splits["validation"], way)
        scoring += time.time() - trained
        report(epoch, last["val_f1"], trained - epoch_begin, time.time() - trained)
        if not math.isfinite(last["val_loss"]):
            raise FloatingPointError(f"loss not finite in epoch {epoch}")
        if sign * last[stop["monitor"]] > best + (stop["min_delta"] if found else 0):
            best, best_epoch = sign * last[stop["monitor"]], epoch
            found = last | {"weights": {k: v.detach().clone() for k, v in trainer.net.state_dict().items()}}
        ended = epoch == experiment["epochs"] or 0 < stop["patience"] <= epoch - best_epoch
        if ended or time.time() > deadline:
            break
    if not stop["restore_best_weights"]:
        found = last | {"weights": trainer.net.state_dict()}
    return Outcome(
        epoch,
        best_epoch,
        time.time() - begin,
        in_time=time.time() <= deadline,
        start_seconds=start_seconds,
        validation_seconds=scoring,
        compiled=trainer.way.compiled,
        **found,
    )
