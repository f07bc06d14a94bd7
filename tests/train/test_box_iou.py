# SPDX-License-Identifier: Apache-2.0
"""Overlaps of paired boxes: values worked out by hand, gradients by differences."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_hw.train.box_iou import paired_ciou, paired_diou, paired_giou, paired_iou

# centre x, centre y, width, height
UNIT = (0.5, 0.5, 1.0, 1.0)
CASES = [
    # b, IoU, GIoU
    (UNIT, 1.0, 1.0),
    ((1.0, 0.5, 1.0, 1.0), 1 / 3, 1 / 3),  # half of each overlaps, the hull is the union
    ((1.0, 1.0, 1.0, 1.0), 1 / 7, 1 / 7 - 0.5 / 2.25),  # overlap 1/4, union 7/4, hull 9/4
    ((2.5, 0.5, 1.0, 1.0), 0.0, -1 / 3),  # apart by one width: hull 3, union 2
    ((0.5, 0.5, 0.5, 0.5), 0.25, 0.25),
]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("b", "iou", "giou"), CASES)
def test_known_overlaps(b, iou, giou):
    assert paired_iou(boxes(UNIT), boxes(b)).item() == pytest.approx(iou)
    assert paired_giou(boxes(UNIT), boxes(b)).item() == pytest.approx(giou)


@pytest.mark.parametrize("overlap", [paired_diou, paired_ciou])
def test_diou_and_ciou_of_boxes_with_one_shape_are_iou_minus_the_distance_term(overlap):
    # centres 1 apart, hull 2 x 1: rho^2 / c^2 = 1 / 5
    assert overlap(boxes(UNIT), boxes((1.5, 0.5, 1.0, 1.0))).item() == pytest.approx(-1 / 5)
    # half overlaps: IoU 1/3, rho^2 / c^2 = 0.25 / (1.5^2 + 1)
    assert overlap(boxes(UNIT), boxes((1.0, 0.5, 1.0, 1.0))).item() == pytest.approx(1 / 3 - 0.25 / 3.25)


def test_diou_of_concentric_boxes_is_iou():
    assert paired_diou(boxes(UNIT), boxes((0.5, 0.5, 2.0, 1.0))).item() == pytest.approx(0.5)


def test_ciou_of_concentric_boxes_is_iou_minus_the_shape_term():
    a, b = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 2.0, 1.0)
    v = 4 / math.pi**2 * (math.atan(2.0) - math.atan(1.0)) ** 2
    alpha = v / (1 - 0.5 + v)
    assert paired_ciou(boxes(a), boxes(b)).item() == pytest.approx(0.5 - alpha * v)


def test_identical_boxes_have_ciou_one_and_finite_gradients():
    a = boxes(UNIT).requires_grad_()
    value = paired_ciou(a, boxes(UNIT)).sum()
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert torch.isfinite(a.grad).all()


def test_tiny_boxes_stay_finite_in_float32():
    a = torch.tensor([[0.5, 0.5, 1e-12, 1e-12]], requires_grad=True)
    loss = (1 - paired_ciou(a, torch.tensor([[0.1, 0.1, 0.2, 0.2]]))).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("overlap", [paired_iou, paired_giou, paired_diou])
def test_gradient_of_iou_giou_and_diou(overlap):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(8, 4, dtype=torch.float64, generator=generator) + 0.3
    b = torch.rand(8, 4, dtype=torch.float64, generator=generator) + 0.3
    assert torch.autograd.gradcheck(lambda t: overlap(t, b), a.requires_grad_())


def test_gradient_of_ciou_is_that_of_the_formula_with_alpha_held_fixed():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(8, 4, dtype=torch.float64, generator=generator) + 0.3
    b = torch.rand(8, 4, dtype=torch.float64, generator=generator) + 0.3

    def shape_term(t):
        return 4 / math.pi**2 * (torch.atan(b[:, 2] / b[:, 3]) - torch.atan(t[:, 2] / t[:, 3])) ** 2

    alpha = shape_term(a) / (1 - paired_iou(a, b) + shape_term(a))

    def frozen(t):
        rho2 = (t[:, :2] - b[:, :2]).square().sum(1)
        high = torch.maximum(t[:, :2] + t[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
        low = torch.minimum(t[:, :2] - t[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
        return paired_iou(t, b) - rho2 / (high - low).square().sum(1) - alpha * shape_term(t)

    assert torch.autograd.gradcheck(frozen, a.clone().requires_grad_())  # the reference itself is smooth here
    mine, reference = a.clone().requires_grad_(), a.clone().requires_grad_()
    torch.testing.assert_close(paired_ciou(mine, b), frozen(reference))
    paired_ciou(mine, b).sum().backward()
    frozen(reference).sum().backward()
    torch.testing.assert_close(mine.grad, reference.grad)
