# SPDX-License-Identifier: Apache-2.0
"""Masks: which weights of a model are kept.

`magnitude` and `patterns` make them, `masked_training` keeps them, `sparse_form` makes them fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolo_hw.errors import PruneError, nearest

Masks = Mapping[str, Tensor]
"""Name of a parameter, as in ``model.named_parameters()``, to bool of its shape: True is kept."""


@dataclass(frozen=True)
class MaskRow:
    """The mask of one parameter.

    Attributes:
        name: The parameter.
        masked: Weights that are left out.
        total: All weights.
        alive: Weights that are left out but not zero in the model; 0 if the model is consistent with the mask.
        kept_filters: Output channels (places of dimension 0) with a kept weight.
        filters: All output channels.
    """

    name: str
    masked: int
    total: int
    alive: int
    kept_filters: int
    filters: int

    @property
    def rate(self) -> float:
        """Share of the weights that is left out."""
        return self.masked / self.total


@dataclass(frozen=True)
class MaskReport:
    """The masks of a model, one row per parameter with a mask, in the order of the model."""

    rows: tuple[MaskRow, ...]

    @property
    def total(self) -> MaskRow:
        """All rows together."""
        sums = {
            field: sum(getattr(row, field) for row in self.rows)
            for field in ("masked", "total", "alive", "kept_filters", "filters")
        }
        return MaskRow("total", **sums)

    @property
    def is_consistent(self) -> bool:
        """Whether every weight that is left out is exactly zero."""
        return self.total.alive == 0

    def __str__(self) -> str:
        """A table in Markdown."""
        lines = ["| weight | masked | rate | filters | not zero |", "| --- | ---: | ---: | ---: | ---: |"]
        for row in (*self.rows, self.total):
            lines.append(
                f"| {row.name} | {row.masked}/{row.total} | {row.rate:.2%} | {row.kept_filters}/{row.filters} "
                f"| {row.alive} |"
            )
        return "\n".join(lines)


def check_masks(model: nn.Module, masks: Masks) -> dict[str, nn.Parameter]:
    """Return the masked parameters by name.

    Raises:
        PruneError: A mask has no parameter, another shape, or is not bool.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise PruneError(f"mask '{name}' must name a parameter of the model{nearest(name, parameters)}")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise PruneError(
                f"mask '{name}' must be bool {list(parameters[name].shape)}, got {mask.dtype} {list(mask.shape)}"
            )
    return {name: parameters[name] for name in masks}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set every weight that is left out to zero, in place.

    Raises:
        PruneError: See `check_masks`.
    """
    for name, parameter in check_masks(model, masks).items():
        parameter.masked_fill_(~masks[name].to(parameter.device), 0)


def join_masks(*several: Masks) -> dict[str, Tensor]:
    """Return masks that keep what all of several keep."""
    joined: dict[str, Tensor] = {}
    for masks in several:
        for name, mask in masks.items():
            joined[name] = joined[name] & mask if name in joined else mask.clone()
    return joined


def mask_report(model: nn.Module, masks: Masks) -> MaskReport:
    """Count what masks leave out, and what of it is not zero in the model.

    Raises:
        PruneError: See `check_masks`.
    """
    parameters = check_masks(model, masks)
    rows = []
    for name, parameter in parameters.items():
        mask = masks[name].to(parameter.device)
        alive = int(((parameter.detach() != 0) & ~mask).sum())
        filters = mask.reshape(len(mask), -1).any(1)
        masked = mask.numel() - int(mask.sum())
        rows.append(MaskRow(name, masked, mask.numel(), alive, int(filters.sum()), len(filters)))
    return MaskReport(tuple(rows))


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark exactly `count` lowest scores; of equal ones the first.

    Args:
        scores: [N], no NaN.
        count: In [0, N].

    Returns:
        [N], bool.

    Raises:
        PruneError: A score is NaN.
    """
    if bool(scores.isnan().any()):
        raise PruneError("a score must be a number, got NaN: are the weights finite?")
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    border = scores.kthvalue(count).values
    marked = scores < border
    ties = (scores == border).nonzero()[:, 0]
    marked[ties[: count - int(marked.sum())]] = True
    return marked


def check_ratio(ratio: float, what: str) -> None:
    """Check a share to prune.

    Raises:
        PruneError: It is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise PruneError(f"{what}: ratio must be in [0, 1), what is left must work; got {ratio}")
