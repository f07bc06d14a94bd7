# SPDX-License-Identifier: Apache-2.0
"""How far the compact model is from the masked one, computed in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from yolo_hw.errors import PruneError
from yolo_hw.prune.darknet_prune import DarknetPlan, carry_out

EXACT = 1e-9
"""Largest difference relative to the outputs that another order of summation explains in float64."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output over all images.

    Attributes:
        output: The layer.
        interior: In all places but the outermost rows and columns; None if there are none.
        border: In the outermost rows and columns.
        size: Largest magnitude of the masked model's output, to compare with.
    """

    output: str
    interior: float | None
    border: float
    size: float

    @property
    def is_exact(self) -> bool:
        """Whether nothing but rounding differs."""
        return max(self.interior or 0.0, self.border) <= EXACT * max(self.size, 1.0)


def compare_outputs(plan: DarknetPlan, images: Iterable[Tensor]) -> list[Difference]:
    """Carry a plan out in float64 and run the masked and the compact model.

    Args:
        plan: The choice.
        images: Each [N, C, H, W].

    Returns:
        One entry for each output of the network.

    Raises:
        PruneError: There is no image.
    """
    pruned = carry_out(replace(plan, model=copy.deepcopy(plan.model).double()))
    masked, compact = pruned.masked_model().eval(), pruned.model.eval()
    names = [layer.name for layer in masked.network.outputs]
    found: list[Difference] = []
    with torch.inference_mode():
        for image in images:
            pairs = zip(names, masked(image.double()), compact(image.double()), strict=True)
            new = [_difference(name, expected, got) for name, expected, got in pairs]
            found = [_larger(a, b) for a, b in zip(found, new, strict=True)] if found else new
    if not found:
        raise PruneError("compare_outputs: at least one image is needed, there is none")
    return found


def _difference(name: str, expected: Tensor, got: Tensor) -> Difference:
    error = (expected - got).abs()
    if error.ndim < 4:
        return Difference(name, None, float(error.max()), float(expected.abs().max()))
    inside = torch.zeros(error.shape[2:], dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    interior = float(error[..., inside].max()) if bool(inside.any()) else None
    return Difference(name, interior, float(error[..., ~inside].max()), float(expected.abs().max()))


def _larger(a: Difference, b: Difference) -> Difference:
    interiors = [x.interior for x in (a, b) if x.interior is not None]
    return Difference(a.output, max(interiors, default=None), max(a.border, b.border), max(a.size, b.size))
