# SPDX-License-Identifier: Apache-2.0
"""Differentiable overlaps of paired boxes: IoU, GIoU, DIoU, CIoU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from yolo_hw.nn.nms import centre_to_corners


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [P, 4] (centre x, centre y, width, height) with their partners, [P].

    Boxes that do not meet have IoU 0 and gradient 0.
    """
    overlap, union, _, _ = _extents(a, b)
    return overlap / union


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU: ``IoU - (hull - union) / hull``.

    Args:
        a: [P, 4] centre x, centre y, width, height; differentiable.
        b: [P, 4].

    Returns:
        [P] in (-1, 1].

    Reference:
        Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    overlap, union, hull_w, hull_h = _extents(a, b)
    hull = hull_w * hull_h
    return overlap / union - (hull - union) / hull


def paired_diou(a: Tensor, b: Tensor) -> Tensor:
    r"""Distance IoU: :math:`\mathrm{IoU} - \rho^2 / c^2`, rho the distance of the centres, c the hull's diagonal.

    Args:
        a: [P, 4] centre x, centre y, width, height; differentiable.
        b: [P, 4].

    Returns:
        [P] in (-1, 1].

    Reference:
        Zheng et al., "Distance-IoU Loss", AAAI 2020, eqs. (6) and (7).
    """
    iou, distance = _iou_and_distance(a, b)
    return iou - distance


def paired_ciou(a: Tensor, b: Tensor) -> Tensor:
    r"""Complete IoU: overlap, distance of the centres and aspect ratio.

    .. math:: \mathrm{IoU} - \rho^2 / c^2 - \alpha v, \quad
              v = \tfrac{4}{\pi^2} (\arctan \tfrac{w_b}{h_b} - \arctan \tfrac{w_a}{h_a})^2, \quad
              \alpha = \frac{v}{(1 - \mathrm{IoU}) + v}

    with the distance rho of the centres and the diagonal c of the hull; no gradient flows through alpha.

    Args:
        a: [P, 4] centre x, centre y, width, height; differentiable.
        b: [P, 4].

    Returns:
        [P], at most 1.

    Reference:
        Zheng et al., "Distance-IoU Loss", AAAI 2020, eqs. (8) to (11).
    """
    iou, distance = _iou_and_distance(a, b)
    angle = torch.atan2(b[:, 2], b[:, 3]) - torch.atan2(a[:, 2], a[:, 3])
    v = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp_min(torch.finfo(v.dtype).eps)
    return iou - distance - alpha * v


def _iou_and_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and squared distance of the centres over squared diagonal of the hull, [P] each."""
    overlap, union, hull_w, hull_h = _extents(a, b)
    distance = (a[:, :2] - b[:, :2]).square().sum(1)
    return overlap / union, distance / (hull_w.square() + hull_h.square())


def _extents(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return overlap, union, and width and height of the hull, [P] each; union and hull are never zero."""
    tiny = torch.finfo(a.dtype).tiny ** 0.25  # its square and fourth power are still normal numbers
    a_low, a_high = centre_to_corners(a).chunk(2, 1)
    b_low, b_high = centre_to_corners(b).chunk(2, 1)
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp_min(0).prod(1)
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).clamp_min(tiny)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - overlap
    return overlap, union.clamp_min(tiny * tiny), hull[:, 0], hull[:, 1]
