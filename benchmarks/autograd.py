# SPDX-License-Identifier: Apache-2.0
"""Forward and backward as one function to measure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Function

Quantiser = Callable[[Tensor], Tensor]


def gradient_function(function: Quantiser, leaves: tuple[Tensor, ...]) -> Function:
    """Return forward and backward of ``function(leaves[0])``, with gradients to all `leaves`."""
    grad = torch.randn(function(leaves[0].detach()).shape, generator=torch.Generator().manual_seed(1))
    return lambda: torch.autograd.grad(function(leaves[0]), leaves, grad)


def training_step(module: nn.Module, x: Tensor) -> Function:
    """Return forward and backward of a module in training mode: gradients to `x` and to every parameter."""
    return gradient_function(module.train(), (x, *module.parameters()))
