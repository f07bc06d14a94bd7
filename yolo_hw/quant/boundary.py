# SPDX-License-Identifier: Apache-2.0
"""The place of a quantiser in a traced model: an operator that computes nothing and is found by its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from yolo_hw.quant.folded import FoldedNode


@torch.library.custom_op("_yolo_hw::boundary", mutates_args=())
def _boundary(x: Tensor, label: str) -> Tensor:
    return x.clone()


@_boundary.register_fake
def _boundary_fake(x: Tensor, label: str) -> Tensor:
    return torch.empty_like(x)


OPERATOR = torch.ops._yolo_hw.boundary
"""What a trace holds."""


def boundary(x: Tensor, label: str) -> Tensor:
    """Return x; in a trace, mark that it is rounded here.

    Args:
        x: [N, ...].
        label: What the `FoldedBoundary` of the trace carries.
    """
    return cast(Tensor, OPERATOR(x, label))


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedBoundary(FoldedNode):
    """A quantiser: rounds its one input; nothing is fused into it.

    Attributes:
        label: Says which.
    """

    label: str
