# SPDX-License-Identifier: Apache-2.0
"""A tiny detector and a tiny set for the tests of training."""

from __future__ import annotations

import numpy as np
import pytest
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


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model():
    def make(seed=0):
        model = Darknet(build_network(parse_cfg(TINY_CFG, "tiny.cfg")))
        initialise(model, seed)
        return model

    return make


@pytest.fixture(scope="session")
def squares():
    """Eight grey images with one bright square each, red (class 0) or blue (class 1)."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(8):
        image = rng.integers(90, 110, (32, 32, 3)).astype(np.uint8)
        x, y = (int(v) for v in rng.integers(1, 21, 2))
        label = index % 2
        image[y : y + 10, x : x + 10] = (230, 40, 40) if label == 0 else (40, 40, 230)
        samples.append(LabelledImage(image, np.array([[x, y, x + 10.0, y + 10.0]]), np.array([label])))
    return samples
