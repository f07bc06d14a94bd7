# SPDX-License-Identifier: Apache-2.0
"""A tiny detector and a tiny set for the tests of training."""

from __future__ import annotations

import numpy as np
import torch

from yolo_hw.darknet import build_network, parse_cfg
from yolo_hw.data.augment import LabelledImage
from yolo_hw.nn import Darknet
from yolo_hw.train import initialise

TINY_CFG = """
[net]
width=32
height=32
channels=3

[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=24
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=24
size=3
pad=1
activation=leaky

[convolutional]
filters=7
activation=linear

[yolo]
anchors=10,10
classes=2
num=1
scale_x_y=1.2
"""


def detector(seed: int = 0) -> Darknet:
    """A network with one head of two classes, for images of 32 x 32."""
    model = Darknet(build_network(parse_cfg(TINY_CFG, "tiny.cfg")))
    initialise(model, seed)
    return model


def pictures(count: int = 8) -> list[LabelledImage]:
    """Grey images with one bright square each, red (class 0) or blue (class 1)."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(count):
        image = rng.integers(90, 110, (32, 32, 3)).astype(np.uint8)
        x, y = (int(v) for v in rng.integers(1, 21, 2))
        label = index % 2
        image[y : y + 10, x : x + 10] = (230, 40, 40) if label == 0 else (40, 40, 230)
        samples.append(LabelledImage(image, np.array([[x, y, x + 10.0, y + 10.0]]), np.array([label])))
    return samples


class PerObject:
    """A loss that is divided by the number of objects."""

    def positives(self, batch):
        return torch.tensor(float(len(batch.targets)))

    def __call__(self, maps, batch, positives=None):
        weight = torch.bincount(batch.targets[:, 0].long(), minlength=len(batch.images)).double()
        total = self.positives(batch) if positives is None else positives
        return {"square": (maps[0].square().mean((1, 2, 3)) * weight).sum() / total}
