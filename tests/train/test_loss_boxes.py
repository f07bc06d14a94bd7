# SPDX-License-Identifier: Apache-2.0
"""Boxes in the losses: one decoder, errors by hand, overlaps against the plain formula, darknet's gradients."""

from __future__ import annotations

import math

import pytest
import torch
from support.loss_heads import SIZE, region_spec, yolo_spec

from yolo_hw.darknet.layers import Shape
from yolo_hw.nn.heads import decode_head
from yolo_hw.nn.nms import centre_to_corners, pairwise_iou
from yolo_hw.train.box_iou import paired_iou
from yolo_hw.train.loss_boxes import (
    TRUTH_CHUNK,
    Cells,
    Truth,
    best_overlap,
    decode_planes,
    limited_sum,
    squared_error,
    with_darknet_gradient,
)
from yolo_hw.train.targets import Assignment

SPECS = {
    "yolov3": yolo_spec((16.0, 24.0), (40.0, 30.0)),
    "yolov4": yolo_spec((16.0, 24.0), scale_x_y=1.2),
    "scaled_yolov4": yolo_spec((16.0, 24.0), scale_x_y=2.0, new_coords=True),
    "yolov2": region_spec((1.3, 2.0), (3.0, 0.5)),
}
GRID = (4, 8)
IMAGE = (32, 64)


def raw_map(spec, seed=0, images=2):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(images, spec.channels, *GRID, dtype=torch.float64, generator=generator)
    return raw.sigmoid() if spec.new_coords else raw


def by_prediction(raw, spec):
    return raw.reshape(len(raw), len(spec.anchors), 5 + spec.classes, *GRID)


def one_cell(spec, row, column):
    zero = torch.zeros(1, dtype=torch.int64)
    found = Assignment(zero, zero, zero + row, zero + column, zero)
    return Cells.of_map(spec, GRID, IMAGE, torch.zeros(0, dtype=torch.float64)).at(found)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_boxes_are_those_of_the_detector(spec):
    raw = raw_map(spec)
    cells = Cells.of_map(spec, GRID, IMAGE, raw)
    boxes = torch.stack(decode_planes(by_prediction(raw, spec)[:, :, :4].unbind(2), cells), -1)
    torch.testing.assert_close(boxes.reshape(len(raw), -1, 4), decode_head(raw, spec, Shape(3, *IMAGE)).boxes)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_chosen_cells_give_the_boxes_of_the_whole_map(spec):
    raw = raw_map(spec)
    t = by_prediction(raw, spec)
    cells = Cells.of_map(spec, GRID, IMAGE, raw)
    whole = decode_planes(t[:, :, :4].unbind(2), cells)
    place = tuple(torch.tensor(v) for v in ([0, 1, 1], [0, len(spec.anchors) - 1, 0], [3, 0, 2], [7, 1, 5]))
    found = Assignment(*place, torch.zeros(3, dtype=torch.int64))
    image, anchor, row, column = place
    chosen = decode_planes(t[image, anchor, :, row, column][:, :4].unbind(1), cells.at(found))
    for mine, plane in zip(chosen, whole, strict=True):
        assert torch.equal(mine, plane[place])


@pytest.mark.parametrize(
    "spec", [SPECS["yolov3"], SPECS["yolov4"], SPECS["scaled_yolov4"]], ids=lambda s: str(s.scale_x_y)
)
def test_squared_error_is_zero_at_the_box_and_its_gradient_is_darknets(spec):
    """Gradient to the raw values: (2 - w h) * (decoded offset - true offset) and (2 - w h) * (t - true t)."""
    cells = one_cell(spec, row=2, column=5)
    t = torch.tensor([[0.3, 0.6, 0.2, 0.4]], dtype=torch.float64)
    right = torch.stack(decode_planes(t.unbind(1), cells), 1)
    assert squared_error(t, right, cells).item() == pytest.approx(0, abs=1e-12)

    w, h = 0.4, 0.3
    wanted = torch.tensor([[5.4 / 8, 2.7 / 4, w, h]], dtype=torch.float64)
    t = t.requires_grad_()
    squared_error(t, wanted, cells).sum().backward()
    x, y, _, _ = decode_planes(t.detach().unbind(1), cells)
    sizes = [w * IMAGE[1] / 16, h * IMAGE[0] / 24]
    true_t = [math.sqrt(s / 4) if spec.new_coords else math.log(s) for s in sizes]
    scale = 2 - w * h
    expected = [
        scale * (x.item() * 8 - 5.4),
        scale * (y.item() * 4 - 2.7),
        scale * (0.2 - true_t[0]),
        scale * (0.4 - true_t[1]),
    ]
    assert t.grad[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spec", [SPECS["yolov4"], SPECS["scaled_yolov4"]], ids=["logits", "new_coords"])
def test_gradient_of_the_squared_error(spec):
    cells = one_cell(spec, row=1, column=3)
    wanted = torch.tensor([[3.2 / 8, 1.9 / 4, 0.3, 0.5]], dtype=torch.float64)
    t = torch.tensor([[0.3, 0.6, 0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: squared_error(v, wanted, cells), t)


@pytest.mark.parametrize("spec", [SPECS["yolov4"], SPECS["scaled_yolov4"]], ids=["logits", "new_coords"])
def test_darknet_gradient_leaves_out_sigmoid_grid_and_anchor(spec):
    cells = one_cell(spec, row=1, column=3)
    wanted = torch.tensor([[3.2 / 8, 1.9 / 4, 0.3, 0.5]], dtype=torch.float64)
    t = torch.tensor([[0.3, 0.6, 0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    boxes = torch.stack(decode_planes(t.unbind(1), cells), 1)
    free = boxes.detach().requires_grad_()
    paired_iou(free, wanted).sum().backward()
    replaced = with_darknet_gradient(t, boxes, spec.new_coords)
    assert torch.equal(replaced, boxes)
    paired_iou(replaced, wanted).sum().backward()
    by_box = free.grad[0]
    sizes = [1.0, 1.0] if spec.new_coords else [math.exp(0.2), math.exp(0.4)]
    expected = [by_box[0], by_box[1], by_box[2] * sizes[0], by_box[3] * sizes[1]]
    assert t.grad[0].tolist() == pytest.approx([float(v) for v in expected])


def test_limited_sum_cuts_the_gradient_whatever_the_scale():
    t = torch.tensor([[1.0, -3.0], [0.25, 2.0]], dtype=torch.float64, requires_grad=True)
    for scale in (1.0, 1024.0):
        t.grad = None
        value = limited_sum(t, lambda v: v.square().sum(1), 1.5)  # gradient 2 t
        assert value.item() == pytest.approx(14.0625)
        (scale * value).backward()
        assert (t.grad / scale).tolist() == [[1.5, -1.5], [0.5, 1.5]]


def test_truth_is_sorted_by_image_and_padded():
    targets = torch.tensor([[2, 0, 0.1, 0.2, 0.3, 0.4], [0, 1, 0.5, 0.5, 0.5, 0.5], [2, 2, 0.9, 0.8, 0.1, 0.1]])
    truth = Truth.of(targets, 3)
    assert truth.rows.tolist() == [[1, 0], [0, 0], [0, 2]]
    assert truth.boxes.shape == (3, 2, 4)
    assert torch.equal(truth.boxes[2], targets[[0, 2], 2:])
    assert not truth.boxes[1].any()
    assert not truth.boxes[0, 1].any()


@pytest.mark.parametrize("count", [0, 5, 2 * TRUTH_CHUNK + 3])
def test_best_overlap_is_that_of_all_pairs(count):
    generator = torch.Generator().manual_seed(count)
    boxes = torch.rand(2, 3, *GRID, 4, generator=generator, dtype=torch.float64)
    targets = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    targets[:, 0] = (targets[:, 0] < 0.2).double()  # most objects in image 0
    best, owner = best_overlap(boxes.unbind(-1), Truth.of(targets, 2))
    for image in range(2):
        mine = targets[targets[:, 0] == image]
        corners = centre_to_corners(boxes[image].reshape(-1, 4))
        if len(mine) == 0:
            assert not best[image].any()
            continue
        overlap = pairwise_iou(corners, centre_to_corners(mine[:, 2:]))
        torch.testing.assert_close(best[image].flatten(), overlap.amax(1))
        chosen = targets[owner[image].flatten()]
        hit = best[image].flatten() > 0
        assert (chosen[hit, 0] == image).all()
        torch.testing.assert_close(paired_iou(boxes[image].reshape(-1, 4), chosen[:, 2:])[hit], overlap.amax(1)[hit])


def test_overlap_of_equal_boxes_never_exceeds_one():
    boxes = torch.rand(1, 1, 1, 4096, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.cat([torch.zeros(4096, 2), boxes.reshape(-1, 4)], 1)
    best, _ = best_overlap(boxes.unbind(-1), Truth.of(targets, 1))
    assert best.max() == 1
    assert best.min() > 0.999


def test_anchors_are_in_pixels_of_the_images():
    spec = SPECS["yolov3"]
    small = Cells.of_map(spec, (4, 4), (SIZE, SIZE), torch.zeros(0))
    large = Cells.of_map(spec, (8, 8), (2 * SIZE, 2 * SIZE), torch.zeros(0))
    assert torch.equal(small.anchor_w, 2 * large.anchor_w)
    region = SPECS["yolov2"]  # in cells
    assert Cells.of_map(region, (4, 8), (1, 1), torch.zeros(0)).anchor_w.flatten().tolist() == pytest.approx(
        [1.3 / 8, 3 / 8]
    )
