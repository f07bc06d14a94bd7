# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights and statistics."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

RAMP_STEPS = 500
"""The decay reaches 63 % of its value after this many steps, so that early weights are forgotten."""


class AveragedModel:
    """A copy of a model whose tensors follow the original's: ``s = d * s + (1 - d) * x``.

    The decay rises as ``d = decay * (1 - exp(-updates / 500))``. Averaging iterates is Polyak & Juditsky, "Acceleration
    of stochastic approximation by averaging", 1992; batch-norm statistics are averaged alike, integers are copied. A
    tensor that several layers share moves once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the model.

        Args:
            model: The model in training.
            decay: Final decay per update, in (0, 1).
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every tensor toward the model's."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / RAMP_STEPS))
        moved: set[int] = set()
        for mine, other in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.data_ptr() in moved:  # of several names
                continue
            moved.add(mine.data_ptr())
            if mine.dtype.is_floating_point:
                mine.lerp_(other, 1 - decay)
            else:
                mine.copy_(other)
