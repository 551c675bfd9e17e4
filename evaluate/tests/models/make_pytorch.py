"""Makes the PyTorch models of this folder: `pip install torch onnxscript`, then run it here; see make_keras.py."""
import json
import numpy as np
import torch
from torch import nn

HEIGHT, WIDTH = 8, 4
i, t, c = np.ogrid[:40, :HEIGHT, :WIDTH]
images = torch.from_numpy((((7 * i + 3 * t + 5 * c) % 11) * 60).astype(np.float32)).reshape(40, 1, HEIGHT, WIDTH)


class Scale(nn.Module):
    def forward(self, pixels):
        return pixels / 1000


def network(*last):
    torch.manual_seed(1)
    return nn.Sequential(Scale(), nn.Conv2d(1, 3, (3, 1)), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *last).eval()


scores = {}
for name, model in {
    "pytorch_sigmoid": network(nn.Linear(18, 1), nn.Sigmoid()),
    "pytorch_logit": network(nn.Linear(18, 1)),
    "pytorch_softmax": network(nn.Linear(18, 2), nn.Softmax(1)),
    "pytorch_logit_pair": network(nn.Linear(18, 2)),
}.items():
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (images[:2],), f"{name}.onnx", dynamic_shapes=shapes, external_data=False, opset_version=18)
    scores[name] = model(images).tolist()
json.dump(scores, open("pytorch_scores.json", "w"))
