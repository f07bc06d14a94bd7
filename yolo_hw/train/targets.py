# SPDX-License-Identifier: Apache-2.0
"""Which prediction answers for which object: ground truth to anchors and cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec


@dataclass(frozen=True)
class Assignment:
    """The positive predictions of one head; every prediction occurs at most once.

    Attributes:
        image: [P] int64, index in the batch.
        anchor: [P] int64, among the head's anchors.
        row: [P] int64 of the cell.
        column: [P] int64 of the cell.
        target: [P] int64, row of the targets.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class AssignConfig:
    """Which anchors and cells take part."""

    anchor_iou: float = 0.213
    """Beside an object's best anchor, all anchors whose shape overlaps it more than this; darknet's ``iou_thresh``, in
    [0, 1]. At 1 only the best anchor answers (YOLOv3)."""
    reach_margin: float = 0.15
    """A neighbour cell answers too if the object's centre lies this far (in cells) inside of what the cell can reach
    by ``scale_x_y``."""


def assign_targets(
    targets: Tensor,
    grids: Sequence[tuple[int, int]],
    heads: Sequence[HeadSpec],
    image: tuple[int, int],
    configs: Sequence[AssignConfig],
) -> list[Assignment]:
    """Choose the positive predictions.

    An object's anchors are the one whose shape fits best over all heads (Redmon & Farhadi, "YOLOv3", section 2.1) and
    all that fit better than their head's `anchor_iou` (Bochkovskiy et al., "YOLOv4", section 3.4: several anchors for
    one ground truth). An anchor that two heads list answers in both. In each of their heads the cell with the object's
    centre answers, and with scale_x_y = a > 1 also the neighbours that reach the centre: cell j reaches centres in
    ``(j - (a - 1) / 2, j + 1 + (a - 1) / 2)``. A prediction wanted by several objects goes to the one whose centre is
    nearest to the cell's centre.

    Args:
        targets: [T, 6] image, class, centre x, centre y, width, height; the last four relative to the input.
        grids: (rows, columns) of every head's map.
        heads: The heads.
        image: Height and width of the input, in whose pixels the anchors are.
        configs: Thresholds of every head.

    Returns:
        One assignment per head.
    """
    anchors = torch.tensor([anchor for head in heads for anchor in head.anchors], dtype=targets.dtype)
    height, width = image
    sizes = targets[:, 4:] * targets.new_tensor([width, height])
    fit = shape_iou(sizes, anchors.to(targets.device))
    thresholds = [config.anchor_iou for head, config in zip(heads, configs, strict=True) for _ in head.anchors]
    wanted = (fit > fit.new_tensor(thresholds)) | (fit == fit.amax(1, keepdim=True))
    result: list[Assignment] = []
    first = 0
    for head, grid, config in zip(heads, grids, configs, strict=True):
        pairs = wanted[:, first : first + len(head.anchors)].nonzero()
        result.append(_assign_head(targets, pairs, head, grid, config.reach_margin))
        first += len(head.anchors)
    return result


def assign_in_cell(targets: Tensor, shapes: Tensor, grid: tuple[int, int]) -> Assignment:
    """Choose YOLOv2's prediction of every object: in the cell of its centre, the one whose shape fits best.

    A prediction wanted by several objects goes to the one it fits best (Redmon & Farhadi, "YOLO9000", section 2).

    Args:
        targets: [T, 6] as in `assign_targets`.
        shapes: [T, A, 2] width and height, relative to the input, of the predictions in every object's cell.
        grid: Rows and columns of the map.

    Returns:
        The positive predictions.
    """
    rows, columns = grid
    x, y = centre_cells(targets, grid).unbind(1)
    fit = shape_iou(targets[:, None, 4:].to(shapes.dtype), shapes)[:, 0]  # [T, A]
    best, anchor = fit.max(1)
    image = targets[:, 0].long()
    key = ((image * fit.shape[1] + anchor) * rows + y) * columns + x
    keep = _cheapest_of_each(key, -best)
    return Assignment(image[keep], anchor[keep], y[keep], x[keep], keep)


def centre_cells(targets: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the cells [T, 2] (column, row) int64 with the objects' centres."""
    rows, columns = grid
    last = torch.tensor([columns - 1, rows - 1], device=targets.device)
    return (targets[:, 2:4] * targets.new_tensor([columns, rows])).long().clamp_min(0).minimum(last)


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of box shapes laid on one centre: [..., A, 2], [..., B, 2] (width, height) to [..., A, B]."""
    overlap = torch.minimum(a[..., :, None, :], b[..., None, :, :]).prod(-1)
    return overlap / (a.prod(-1)[..., :, None] + b.prod(-1)[..., None, :] - overlap)


def _assign_head(targets: Tensor, pairs: Tensor, head: HeadSpec, grid: tuple[int, int], margin: float) -> Assignment:
    """Find the cells of (target, anchor) pairs [Q, 2] in one head."""
    rows, columns = grid
    target, anchor = pairs.unbind(1)
    centre = targets[target, 2:4] * targets.new_tensor([columns, rows])  # [Q, 2] x, y in cells
    last = torch.tensor([columns - 1, rows - 1], device=targets.device)
    own = centre_cells(targets[target], grid)
    step = torch.tensor([-1, 0, 1], device=targets.device)
    offset = torch.cartesian_prod(step, step)  # [9, 2]
    cell = own[:, None] + offset  # [Q, 9, 2]
    reach = max((head.scale_x_y - 1) / 2 - margin, 0.0)
    off_centre = (centre[:, None] - cell - 0.5).abs()
    valid = (off_centre < 0.5 + reach).all(2) & (cell >= 0).all(2) & (cell <= last).all(2)
    valid |= (offset == 0).all(1)
    pair, choice = valid.nonzero(as_tuple=True)
    x, y = cell[pair, choice].unbind(1)
    image = targets[target[pair], 0].long()
    key = ((image * len(head.anchors) + anchor[pair]) * rows + y) * columns + x
    keep = _cheapest_of_each(key, off_centre[pair, choice].amax(1))
    return Assignment(image[keep], anchor[pair][keep], y[keep], x[keep], target[pair][keep])


def _cheapest_of_each(key: Tensor, cost: Tensor) -> Tensor:
    """Return the index of the cheapest entry of every key, in the order of the keys."""
    order = torch.argsort(cost, stable=True)
    order = order[torch.argsort(key[order], stable=True)]
    ordered = key[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]
