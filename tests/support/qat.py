# SPDX-License-Identifier: Apache-2.0
"""Quantised models in training, a few steps away from where calibration has put them. Needs torch."""

from __future__ import annotations

import torch
from support.random_net import make_images
from torch import nn
from torch.utils._pytree import tree_leaves

from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig, QatModel, prepare_qat


def images_of(model: nn.Module, seed: int = 0) -> torch.Tensor:
    """Return images [4, C, H, W] in [0, 1]."""
    return torch.from_numpy(make_images(model, seed=seed)).permute(0, 3, 1, 2).float() / 255


def trained_qat(model: nn.Module, config: QuantConfig, qat: QatConfig, steps: int = 4) -> QatModel:
    """Quantise a model and make steps that pull its outputs toward other ones, so that all parameters move."""
    prepared = prepare_qat(model, config, qat=qat, batches=[make_images(model)]).train()
    optimizer = torch.optim.Adam(prepared.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        outputs = tree_leaves(prepared(images_of(model, seed=step)))
        wanted = [torch.randn(y.shape, generator=generator) for y in outputs]
        loss = torch.stack([((y - w) ** 2).mean() for y, w in zip(outputs, wanted, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prepared.eval()
