# SPDX-License-Identifier: Apache-2.0
"""Boxes in the detection losses: decoding with gradients, what a box should have been, overlaps with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec
from yolo_hw.train.targets import Assignment

TRUTH_CHUNK = 64
"""Objects per image compared at once with all predictions: bounds the memory of crowded images."""


@dataclass(frozen=True)
class Cells:
    """Where predictions stand; tensors broadcast against the predictions.

    Attributes:
        spec: The head.
        column: Of the cell.
        row: Of the cell.
        anchor_w: Width of the anchor relative to the input.
        anchor_h: Height of the anchor relative to the input.
        columns: Of the map.
        rows: Of the map.
    """

    spec: HeadSpec
    column: Tensor
    row: Tensor
    anchor_w: Tensor
    anchor_h: Tensor
    columns: int
    rows: int

    @classmethod
    def of_map(cls, spec: HeadSpec, grid: tuple[int, int], image: tuple[int, int], like: Tensor) -> Cells:
        """Return the cells of all predictions [A, rows, columns].

        Args:
            spec: The head.
            grid: Rows and columns of the map.
            image: Height and width of the input, to which the anchors of ``[yolo]`` heads are relative.
            like: Gives dtype and device.
        """
        rows, columns = grid
        height, width = image if spec.kind == "yolo" else grid
        anchors = torch.tensor(spec.anchors, dtype=like.dtype, device=like.device)[:, :, None, None]  # [A, 2, 1, 1]
        column = torch.arange(columns, dtype=like.dtype, device=like.device)
        row = torch.arange(rows, dtype=like.dtype, device=like.device)[:, None]
        return cls(spec, column, row, anchors[:, 0] / width, anchors[:, 1] / height, columns, rows)

    def at(self, found: Assignment) -> Cells:
        """Return the cells of the predictions [P] of an assignment."""
        width, height = self.anchor_w.flatten(), self.anchor_h.flatten()
        column, row = self.column[found.column], self.row.flatten()[found.row]
        return Cells(self.spec, column, row, width[found.anchor], height[found.anchor], self.columns, self.rows)


Planes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Centre x, centre y, width, height."""


def decode_planes(t: Sequence[Tensor], cells: Cells) -> Planes:
    """Return boxes relative to the input from the raw t_x, t_y, t_w, t_h, as `yolo_hw.nn.heads.decode_head` does."""
    a = cells.spec.scale_x_y
    tx, ty, tw, th = t
    if cells.spec.new_coords:
        w, h = (2 * tw).square(), (2 * th).square()
    else:
        tx, ty, w, h = tx.sigmoid(), ty.sigmoid(), tw.exp(), th.exp()
    x = (a * tx - 0.5 * (a - 1) + cells.column) / cells.columns
    y = (a * ty - 0.5 * (a - 1) + cells.row) / cells.rows
    return x, y, w * cells.anchor_w, h * cells.anchor_h


def with_darknet_gradient(t: Tensor, boxes: Tensor, new_coords: bool) -> Tensor:
    """Return the values of `boxes` with the gradient darknet gives them.

    Darknet takes the derivative of the overlap by the box relative to the input and hands it to t_x and t_y as it is,
    and to t_w and t_h times ``exp(t)`` (as it is with new_coords): it leaves out the derivative of the sigmoid, the
    size of the grid and the anchor. The ``iou_normalizer`` of a cfg was found with these, much larger, gradients.

    Args:
        t: [P, 4] raw values.
        boxes: [P, 4] decoded from them.
        new_coords: Of the head.

    Returns:
        [P, 4].
    """
    inner = t if new_coords else torch.cat([t[:, :2], t[:, 2:].exp()], 1)
    return boxes.detach() + (inner - inner.detach())


def squared_error(t: Tensor, wanted: Tensor, cells: Cells) -> Tensor:
    r"""YOLOv3's error of raw values, [P].

    The gradient is, up to the factor ``2 - w h`` that favours small objects, :math:`t - \hat t` with the truth
    :math:`\hat t` from the inverted decoder (Redmon & Farhadi, "YOLOv3", section 2.1). As in darknet the comparison of
    the centre is behind the sigmoid, :math:`x - \hat x` with :math:`x = a \sigma(t_x) - (a - 1) / 2`, and that is the
    gradient to t_x. The function with these gradients is

    .. math:: (2 - w h) \Big( \sum_{x, y} a \, [H(\hat p, \sigma(t)) - H(\hat p)]
              + \sum_{w, h} \tfrac12 (t - \hat t)^2 \Big), \quad \hat p = \frac{\hat x + (a - 1) / 2}{a}

    with the cross entropy H; it is zero where the box is right. With new_coords the map is sigmoided already, and the
    centre's term is :math:`\tfrac a2 (t - \hat p)^2`.

    Args:
        t: [P, 4] raw values; differentiable.
        wanted: [P, 4] centre and size of the objects relative to the input; sizes are positive.
        cells: Of the predictions.
    """
    a = cells.spec.scale_x_y
    offset_x = wanted[:, 0] * cells.columns - cells.column
    offset_y = wanted[:, 1] * cells.rows - cells.row
    share = ((torch.stack([offset_x, offset_y], 1) + 0.5 * (a - 1)) / a).clamp(0, 1)
    ratio = wanted[:, 2:] / torch.stack([cells.anchor_w, cells.anchor_h], 1)
    if cells.spec.new_coords:
        centre = 0.5 * (t[:, :2] - share).square()
        size = 0.5 * ratio.sqrt()
    else:
        entropy = -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
        centre = F.binary_cross_entropy_with_logits(t[:, :2], share, reduction="none") - entropy
        size = ratio.log()
    error = a * centre + 0.5 * (t[:, 2:] - size).square()
    return (2 - wanted[:, 2] * wanted[:, 3]) * error.sum(1)


class _LimitedGradient(torch.autograd.Function):
    """The sum of ``terms(t)``, its gradient by every element of t cut to [-limit, limit].

    The gradient is taken and cut in the forward pass, so that no scaling of the loss (normaliser, mixed precision)
    shifts the limit.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, *args: object) -> Tensor:
        t, terms, limit = args
        assert isinstance(t, Tensor)
        assert callable(terms)
        assert isinstance(limit, float)
        with torch.enable_grad():
            inner = t.detach().requires_grad_()
            total: Tensor = terms(inner).sum()
            (gradient,) = torch.autograd.grad(total, inner)
        ctx.save_for_backward(gradient.clamp(-limit, limit))
        return total.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grads[0], None, None


def limited_sum(t: Tensor, terms: Callable[[Tensor], Tensor], limit: float) -> Tensor:
    """Return ``terms(t).sum()`` with a gradient by t of at most `limit` in every element."""
    total = _LimitedGradient.apply(t, terms, limit)  # type: ignore[no-untyped-call]
    assert isinstance(total, Tensor)
    return total


@dataclass(frozen=True)
class Truth:
    """The objects of a batch by image, padded with empty boxes.

    Attributes:
        boxes: [N, most per image, 4] centre x, centre y, width, height.
        rows: [N, most per image] int64, row of the targets; 0 in the padding.
    """

    boxes: Tensor
    rows: Tensor

    @classmethod
    def of(cls, targets: Tensor, images: int) -> Truth:
        """Sort targets [T, 6] by image."""
        image = targets[:, 0].long()
        counts = torch.bincount(image, minlength=images)
        most = int(counts.max()) if len(targets) else 0
        order = torch.argsort(image, stable=True)
        start = counts.cumsum(0) - counts
        rank = torch.arange(len(targets), device=targets.device) - start[image[order]]
        boxes = targets.new_zeros(images, most, 4)
        boxes[image[order], rank] = targets[order, 2:]
        rows = torch.zeros(images, most, dtype=torch.int64, device=targets.device)
        rows[image[order], rank] = order
        return cls(boxes, rows)


@torch.no_grad()
def best_overlap(boxes: Planes, truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the largest IoU of every prediction with an object of its image, and whose it is.

    Args:
        boxes: Planes [N, A, h, w].
        truth: The objects.

    Returns:
        IoU [N, A, h, w], 0 where the image has no object; row of the targets [N, A, h, w] int64.
    """
    x, y, w, h = (plane.flatten(1)[:, None] for plane in boxes)  # [N, 1, P]
    left, right, top, bottom, area = x - w / 2, x + w / 2, y - h / 2, y + h / 2, w * h
    best = torch.zeros_like(x[:, 0])
    owner = torch.zeros_like(best, dtype=torch.int64)
    tiny = torch.finfo(best.dtype).tiny
    for part, rows in zip(_chunks(truth.boxes), _chunks(truth.rows), strict=True):
        gx, gy, gw, gh = part.to(best.dtype).unsqueeze(3).unbind(2)  # [N, M, 1]
        width = torch.minimum(right, gx + gw / 2).sub_(torch.maximum(left, gx - gw / 2)).clamp_min_(0)
        height = torch.minimum(bottom, gy + gh / 2).sub_(torch.maximum(top, gy - gh / 2)).clamp_min_(0)
        overlap = width.mul_(height)
        union = (area + gw * gh).sub_(overlap).clamp_min_(tiny)
        value, index = overlap.div_(union).clamp_max_(1).max(1)  # rounding may exceed 1, a threshold of 1 must hold
        better = value > best
        best = torch.where(better, value, best)
        owner = torch.where(better, rows.gather(1, index), owner)
    shape = boxes[0].shape
    return best.reshape(shape), owner.reshape(shape)


def _chunks(padded: Tensor) -> Sequence[Tensor]:
    """Split [N, most per image, ...] into parts of at most TRUTH_CHUNK objects per image, none if there are none."""
    return torch.split(padded, TRUTH_CHUNK, 1) if padded.shape[1] else ()
