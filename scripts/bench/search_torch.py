"""PyTorch on the configurations of a study, on the GPU that the study ran on: the rate of each, and the whole study's time.

Usage: search_torch.py STUDY DATA [--batch 128] [--steps 150]

For every finished trial of STUDY the same network is built in PyTorch, with the data on the GPU, channels-last, in bf16,
dropout included, the step captured as a CUDA graph (torch.compile left out: it takes minutes a configuration). Its
rate times the rows and epochs of the trial is the time that PyTorch would take for it; validation and everything else
count as nothing. Of DATA only the manifest is read: PyTorch's rate does not depend on the pixels. Needs PyTorch with CUDA.
"""
import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("study", type=Path)
p.add_argument("data", type=Path)
p.add_argument("--batch", type=int, default=128)
p.add_argument("--steps", type=int, default=150)
a = p.parse_args()
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
manifest = json.loads((a.data / "manifest.json").read_text())
rows = manifest["splits"]["train"]["rows"]
height, width = manifest["height"], manifest["width"]


class Net(nn.Module):
    def __init__(self, q):
        super().__init__()
        f, k, u = q["n_filters"], q["kernel_size"], q["n_dense_units"]
        self.dropout = q.get("dropout_rate", 0.0)
        self.stem = nn.Conv2d(1, f, (k, 1))
        widths = [f] + [f // (i + 1) for i in range(q["n_conv_layers"])]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, (k, 1)) for i, o in zip(widths, widths[1:]))
        h, w = height - k + 1, width
        for _ in self.convs:
            h, w = (h - k + 1) // 2, w // 2
        sizes = [widths[-1] * h * w] + [u // (i + 1) for i in range(q["n_dense_layers"])]
        self.dense = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        self.out = nn.Linear(sizes[-1], 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = x.flatten(1)
        for dense in self.dense:
            x = F.dropout(F.relu(dense(x)), self.dropout)
        return self.out(x)[:, 0]


def rate(q):
    """Samples a second of captured training steps."""
    net = Net(q).cuda().to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(net.parameters(), lr=5e-4, fused=True, capturable=True)
    store = torch.rand(32768, height * width, device="cuda", dtype=torch.bfloat16)
    labels = torch.randint(0, 2, (len(store),), device="cuda").float()
    order = torch.randperm(len(store), device="cuda")
    at = torch.zeros((), dtype=torch.long, device="cuda")
    lanes = torch.arange(a.batch, device="cuda")

    def step():
        chosen = order[(at + lanes) % len(store)]
        x = store[chosen].view(a.batch, 1, height, width).to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            z = net(x)
        loss = F.binary_cross_entropy_with_logits(z.float(), labels[chosen])
        adam.zero_grad(set_to_none=False)
        loss.backward()
        adam.step()
        at.add_(a.batch)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(10):
        graph.replay()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(a.steps):
        graph.replay()
    torch.cuda.synchronize()
    return a.steps * a.batch / (time.perf_counter() - begin)


known, total, ours = {}, 0.0, 0.0
for folder in sorted((a.study / "trials").iterdir()):
    if not (folder / "result.json").exists():
        continue
    result = json.loads((folder / "result.json").read_text())
    q = json.loads((folder / "trial.json").read_text())["params"]
    key = tuple(q[name] for name in ("n_filters", "kernel_size", "n_conv_layers", "n_dense_layers", "n_dense_units"))
    if key not in known:
        known[key] = rate(q)
    seconds = rows * result["epochs"] / known[key]
    total, ours = total + seconds, ours + result["seconds"]
    mine = rows * result["epochs"] / result["seconds"]
    print(f"trial {folder.name} F {key[0]} k {key[1]} conv {key[2]}: {result['epochs']} epochs, PyTorch {known[key]:.0f} samples/s = {seconds:.1f} s; ours {mine:.0f} with validation = {result['seconds']:.1f} s", flush=True)
print(f"PyTorch, training steps alone: {total:.0f} s; ours, sum over the trials: {ours:.0f} s")
