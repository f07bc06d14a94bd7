# SPDX-License-Identifier: Apache-2.0
"""Masks with a pattern that hardware and the sparse kernels run: N:M, and blocks of neighbouring channels.

The words are those of `yolo_hw.ops.pack_sparse`: ``"2:4"``, ``"block(16x1)"``. Channels are counted from 0, so the last
group or block of a layer may be shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_hw.errors import PruneError
from yolo_hw.ops.sparse_packing import Pattern
from yolo_hw.prune.magnitude import masks_of_lowest
from yolo_hw.prune.masks import check_ratio
from yolo_hw.prune.module_names import named
from yolo_hw.prune.ranking import Scope


class BlockNorm(str, Enum):
    """How the size of a block is measured, over the weights that it has."""

    L1 = "l1"
    """Mean magnitude."""
    L2 = "l2"
    """Root of the mean square."""


def group_masks(model: nn.Module, pattern: str, names: Sequence[str] = ("*",)) -> dict[str, Tensor]:
    """Return masks that keep the N largest of every M neighbouring input channels of an output channel and tap.

    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3. A last group of fewer than M channels
    keeps N, or all if it has no more. Of equal magnitudes the later ones stay.

    Args:
        model: The model.
        pattern: ``"N:M"``, N below M.
        names: Which convolutions and linear maps, see `named`. A depthwise convolution has one input channel per
            output, so all of it is kept.

    Raises:
        PruneError: The pattern or a name is none, or weights are no numbers.
    """
    form = _parsed(pattern)
    if not form.keep:
        raise PruneError(f"group_masks: pattern must be 'N:M', got '{pattern}'; see block_masks")
    return {f"{name}.weight": _keep_groups(m.weight.detach(), form) for name, m in _layers(model, names).items()}


def block_masks(
    model: nn.Module,
    ratio: float,
    pattern: str = "block(16x1)",
    *,
    names: Sequence[str] = ("*",),
    norm: BlockNorm = BlockNorm.L2,
    scope: Scope = Scope.GLOBAL,
) -> dict[str, Tensor]:
    """Return masks that leave out the smallest blocks of R output times C input channels of one tap.

    Exactly ``round(ratio * N)`` of the N blocks that are compared are left out, but never all; of equal ones the first.
    A block at the end of a layer may be shorter; its size is the mean over the weights it has.

    Args:
        model: The model.
        ratio: Share of the blocks to leave out, in [0, 1).
        pattern: ``"block(RxC)"``; with groups, R must divide the output channels of a group.
        names: Which convolutions and linear maps, see `named`.
        norm: How blocks are compared.
        scope: Among what.

    Raises:
        PruneError: The ratio, the pattern or a name, a layer that cannot have it, or weights that are no numbers.
    """
    check_ratio(ratio, "block_masks")
    form = _parsed(pattern)
    if form.keep:
        raise PruneError(f"block_masks: pattern must be 'block(RxC)' or 'unstructured', got '{pattern}'")
    layers = _layers(model, names)
    for name, module in layers.items():
        groups = getattr(module, "groups", 1)
        own = len(module.weight) // groups
        if groups > 1 and own % form.rows:
            raise PruneError(
                f"block_masks: the {form.rows} rows of '{pattern}' must divide the {own} output channels of a group of "
                f"{name}; leave it out of names"
            )
    sizes = {name: _block_sizes(module.weight.detach(), form, norm) for name, module in layers.items()}
    kept = masks_of_lowest(sizes, ratio, scope)
    return {f"{name}.weight": _spread(kept[name], module.weight, form) for name, module in layers.items()}


def _parsed(pattern: str) -> Pattern:
    try:
        return Pattern.parse(pattern)
    except ValueError as error:
        raise PruneError(str(error)) from None


def _layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Conv2d | nn.Linear]:
    every = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return {name: every[name] for name in named(every, names, "convolution or linear map")}


def _keep_groups(weight: Tensor, form: Pattern) -> Tensor:
    """Return the mask of a weight [K, C, ...]."""
    if bool(weight.isnan().any()):
        raise PruneError("group_masks: weights must be numbers, got NaN")
    channels = weight.shape[1]
    sizes = weight.abs().movedim(1, -1)  # [K, ..., C]
    # What fills the last group is smaller than any weight, so it is left out first.
    filled = functional.pad(sizes, (0, -channels % form.group), value=-1.0)
    groups = filled.reshape(*filled.shape[:-1], -1, form.group)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    order = groups.argsort(stable=True, dim=-1)
    kept.scatter_(-1, order[..., form.group - form.keep :], True)
    return kept.flatten(-2)[..., :channels].movedim(-1, 1).contiguous()


def _block_sizes(weight: Tensor, form: Pattern, norm: BlockNorm) -> Tensor:
    """Return the size of every block, [rows of blocks, columns of blocks, taps], from a weight [K, C, ...]."""
    power = 1 if norm is BlockNorm.L1 else 2
    sums = _block_sums(weight.abs().pow(power), form)
    means = sums / _block_sums(torch.ones_like(weight), form)
    return means if norm is BlockNorm.L1 else means.sqrt()


def _block_sums(values: Tensor, form: Pattern) -> Tensor:
    out_channels, channels = values.shape[:2]
    flat = values.reshape(out_channels, channels, -1)
    filled = functional.pad(flat, (0, 0, 0, -channels % form.columns, 0, -out_channels % form.rows))
    rows, columns = (filled.shape[0] // form.rows, filled.shape[1] // form.columns)
    return filled.reshape(rows, form.rows, columns, form.columns, -1).sum((1, 3))


def _spread(kept: Tensor, weight: Tensor, form: Pattern) -> Tensor:
    """Return the mask of a weight from that of its blocks."""
    wide = kept.repeat_interleave(form.rows, 0)[: len(weight)].repeat_interleave(form.columns, 1)
    return wide[:, : weight.shape[1]].reshape(weight.shape).clone()
