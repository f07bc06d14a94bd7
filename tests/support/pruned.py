# SPDX-License-Identifier: Apache-2.0
"""Random choices of channels for a model, and how far the compact model is from the masked one. Needs torch."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_surgery import PrunedDarknet, masked_darknet
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.plan import PAD, PrunePlan

RELATIVE = 1e-12
"""What float64 sums in another order may differ by, as a share of the largest output."""


def random_plan(groups: ChannelGroups, seed: int, *, multiple: int = 1, vote: bool = False) -> PrunePlan:
    """Return a plan that keeps random units of every group that may be pruned.

    Args:
        groups: Of the model.
        seed: Of the choice.
        multiple: Counts are padded with zero channels up to it.
        vote: Whether single members of joined groups have dead filters for kept units.
    """
    rng = random.Random(seed)
    kept, silent = {}, {}
    for group in groups.prunable:
        units = np.array(sorted(rng.sample(range(group.size), rng.randint(1, group.size))), np.int64)
        kept[group.name] = np.concatenate([units, np.full(-len(units) % multiple, PAD, np.int64)])
        alive = np.isin(np.arange(group.size), units)
        if vote and len(group.members) > 1:
            silent[group.name] = {
                member.name: alive & (np.array([rng.random() for _ in range(group.size)]) < 0.3)
                for member in group.members
            }
    return PrunePlan(groups, kept, silent)


def image(model: Darknet, seed: int = 0, size: tuple[int, int] | None = None) -> Tensor:
    """Return a float64 [1, C, H, W] image of normal noise, of the network's size if none is given."""
    shape = model.network.input
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, shape.c, *(size or (shape.h, shape.w)), generator=generator, dtype=torch.float64)


def outputs(model: Darknet, x: Tensor) -> list[Tensor]:
    """Return the model's maps in evaluation mode without gradients."""
    with torch.no_grad():
        return list(model.eval()(x))


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest difference as a share of the largest value, over all maps."""
    assert [f.shape for f in found] == [w.shape for w in wanted]
    return max(float((f - w).abs().max() / w.abs().max().clamp_min(1)) for f, w in zip(found, wanted, strict=True))


def without_borders(model: Darknet) -> Darknet:
    """Return the model with convolutions that repeat the outermost pixels instead of adding zeros.

    In it a constant map stays one, as it does in the interior of a large map.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "replicate"
    return model


def pruning_error(
    model: Darknet, pruned: PrunedDarknet, *, borders: bool = True, size: tuple[int, int] | None = None
) -> float:
    """Return how far the compact model is from the masked one, see `relative_error`.

    Args:
        model: The model of full size, in float64.
        pruned: What became of it.
        borders: Whether convolutions add zeros around maps as they do.
        size: Of the image.
    """
    models = [pruned.model, masked_darknet(model, pruned.surgery)]
    if not borders:
        models = [without_borders(m) for m in models]
    x = image(model, 1, size)
    found, wanted = (outputs(m, x) for m in models)
    return relative_error(found, wanted)
