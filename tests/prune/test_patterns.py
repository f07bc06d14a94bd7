# SPDX-License-Identifier: Apache-2.0
"""Masks with a pattern: against plain loops, on widths that are no multiple, and as the packer takes them."""

from __future__ import annotations

import pytest
import torch
from support.tiny_training import detector
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.ops import pack_sparse
from yolo_hw.prune.patterns import BlockNorm, block_masks, group_masks
from yolo_hw.prune.ranking import Scope


class Layers(nn.Module):
    """Widths that are no multiple of anything, a grouped convolution and a linear map."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(7, 21, 3)
        self.b = nn.Conv2d(21, 18, 1)
        self.c = nn.Conv2d(18, 12, 3, groups=3)
        self.d = nn.Linear(10, 5)


def taps(tensor):
    """A weight as a list of matrices [K, C]."""
    flat = tensor.reshape(*tensor.shape[:2], -1)
    return [flat[:, :, i] for i in range(flat.shape[2])]


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 4)])
@pytest.mark.parametrize("ties", [False, True])
def test_groups_keep_their_largest(keep, group, ties):
    model = Layers()
    if ties:
        for parameter in model.parameters():
            parameter.data.mul_(20).round_()
    masks = group_masks(model, f"{keep}:{group}")
    assert list(masks) == ["a.weight", "b.weight", "c.weight", "d.weight"]
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        for matrix, kept in zip(taps(weight), taps(mask), strict=True):
            for row, chosen in zip(matrix, kept, strict=True):
                for first in range(0, len(row), group):
                    sizes = row[first : first + group].abs().tolist()
                    best = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))[-min(keep, len(sizes)) :]
                    assert chosen[first : first + group].nonzero()[:, 0].tolist() == sorted(best)
        if weight.ndim == 4:
            pack_sparse(torch.where(mask, weight, 0), f"{keep}:{group}")


@pytest.mark.parametrize(("rows", "columns"), [(16, 1), (4, 1), (16, 4), (1, 1), (3, 5)])
@pytest.mark.parametrize("norm", list(BlockNorm))
@pytest.mark.parametrize("scope", [Scope.GLOBAL, Scope.LOCAL])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_blocks_go_whole_the_smallest_first(rows, columns, norm, scope, ratio):
    model, pattern, names = Layers(), f"block({rows}x{columns})", ["a", "b", "d"]
    masks = block_masks(model, ratio, pattern, names=names, norm=norm, scope=scope)
    found = {}
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        blocks = found[name] = []
        for matrix, kept in zip(taps(weight), taps(mask), strict=True):
            for i in range(0, len(matrix), rows):
                for j in range(0, matrix.shape[1], columns):
                    values = matrix[i : i + rows, j : j + columns].double()
                    size = values.abs().mean() if norm is BlockNorm.L1 else values.square().mean().sqrt()
                    chosen = kept[i : i + rows, j : j + columns]
                    assert chosen.all() == chosen.any()
                    blocks.append((float(size), bool(chosen.all())))
        if weight.ndim == 4 and mask.any():
            pack_sparse(torch.where(mask, weight, 0), pattern)
    groups = [[b for blocks in found.values() for b in blocks]] if scope is Scope.GLOBAL else list(found.values())
    for blocks in groups:
        gone, stay = [[size for size, kept in blocks if kept is state] for state in (False, True)]
        assert len(gone) == min(round(ratio * len(blocks)), len(blocks) - 1)
        assert max(gone, default=0) <= min(stay) * (1 + 1e-6)  # the masks compare in float32


def test_blocks_of_one_are_single_weights():
    model = Layers()
    masks = block_masks(model, 0.4, "unstructured")
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.4 * sum(m.numel() for m in masks.values()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: group_masks(m, "block(16x1)"), "pattern must be 'N:M', got"),
        (lambda m: group_masks(m, "4:4"), "N < M"),
        (lambda m: block_masks(m, 0.5, "2:4"), r"pattern must be 'block\(RxC\)'"),
        (lambda m: block_masks(m, 0.5, "16x1"), "pattern must be 'unstructured', 'block"),
        (lambda m: block_masks(m, 1.0), r"ratio must be in \[0, 1\)"),
        (lambda m: block_masks(m, 0.5, names=["c"]), "16 rows .* must divide the 4 output channels of a group of c"),
        (lambda m: block_masks(m, 0.5, names=["conv_e"]), "'conv_e' must name a convolution or linear map"),
    ],
)
def test_what_cannot_be_met_is_refused(make, message):
    with pytest.raises(PruneError, match=message):
        make(Layers())


def test_no_number_has_no_rank():
    model = detector()
    model.get_parameter("blocks.conv_1.conv.weight").data[0, 0, 0, 0] = float("nan")
    for make in (lambda: group_masks(model, "2:4"), lambda: block_masks(model, 0.5)):
        with pytest.raises(PruneError, match="NaN"):
            make()
