# SPDX-License-Identifier: Apache-2.0
"""A small residual detector, images for it and a cheap score, for the tests of searches."""

from __future__ import annotations

import numpy as np
import torch
from support.networks import CfgWriter
from support.random_net import make_net

from yolo_hw.nn.darknet import Darknet


def residual_detector(width: int = 16, seed: int = 0) -> Darknet:
    """A network with two residual blocks, a gate, a plain convolution and a head, for images of 32 x 32."""
    cfg = CfgWriter(32, 32)
    cfg.conv(width, 3, 2)
    for _ in range(2):
        cfg.conv(width)
        cfg.conv(width, 3)
        cfg.section("shortcut", from_=-3, activation="linear")
    cfg.section("se", reduction=4)
    cfg.conv(2 * width, 3, 2)
    cfg.conv(width)
    cfg.yolo([0, 1], 2, "8,8, 16,16")
    return make_net(cfg.text(), seed)


def image_batches(count: int = 3, size: int = 4, side: int = 32, seed: int = 0) -> list[torch.Tensor]:
    """Return random images in [0, 1) as batches [size, 3, side, side]."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.random((size, 3, side, side), np.float32)) for _ in range(count)]


class AgreesWith:
    """A score: minus the distance of a model's outputs to those of another; counts how often it is asked."""

    def __init__(self, model: Darknet) -> None:
        self.images = image_batches(1, 4, seed=9)[0]
        with torch.no_grad():
            self.outputs = model.eval()(self.images)
        self.calls = 0

    def __call__(self, model: torch.nn.Module) -> float:
        self.calls += 1
        assert not any(m.training for m in model.modules())
        with torch.no_grad():
            return -float(sum((a - b).square().sum() for a, b in zip(model(self.images), self.outputs, strict=True)))
