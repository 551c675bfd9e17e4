"""The network `simple_cnn` in PyTorch, and a training step captured as a CUDA graph."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Scores (logits) `[batch]` of images `[batch, 1, height, width]`; weights start as Keras' do."""

    def __init__(self, height, width, filters, kernel, conv_layers, dense_layers, units, dropout=0.0):
        super().__init__()
        self.dropout = dropout
        self.stem = nn.Conv2d(1, filters, (kernel, 1))
        widths = [filters] + [filters // (i + 1) for i in range(conv_layers)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, (kernel, 1)) for i, o in zip(widths, widths[1:]))
        height -= kernel - 1
        for _ in self.convs:
            height, width = (height - kernel + 1) // 2, width // 2
        sizes = [widths[-1] * height * width] + [units // (i + 1) for i in range(dense_layers)]
        self.dense = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        self.out = nn.Linear(sizes[-1], 1)
        for layer in [self.stem, *self.convs, *self.dense, self.out]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = x.flatten(1)
        for dense in self.dense:
            x = F.relu(dense(x))
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        return self.out(x)[:, 0]


def allow_tf32(allowed):
    """Products in tf32 or in exact f32; cuDNN may look for the fastest way."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


def captured(step, warm_up):
    """`step` as a CUDA graph: what is returned replays it. It runs `warm_up` times before and must allow that."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
