# SPDX-License-Identifier: Apache-2.0
"""Decoding of head maps against scalar loops over cells and anchors."""

import math

import numpy as np
import pytest
import torch

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.errors import YoloHwError
from yolo_hw.nn import decode_head, decode_heads

NET = Shape(3, 64, 96)
ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def decode_cell(t, head, anchor, cell, size):
    """One box: (x, y, w, h) relative to the input and the class scores."""
    (column, row), (width, height) = cell, size
    if head.kind == "region":
        exponentials = [math.exp(v) for v in t[5:]]
        classes = [v / sum(exponentials) for v in exponentials] if head.softmax else [sigmoid(v) for v in t[5:]]
        box = (
            (column + sigmoid(t[0])) / width,
            (row + sigmoid(t[1])) / height,
            anchor[0] * math.exp(t[2]) / width,
            anchor[1] * math.exp(t[3]) / height,
        )
        return box, [sigmoid(t[4]) * v for v in classes]
    shift = 0.5 * (head.scale_x_y - 1)
    if head.new_coords:
        x, y, w, h = t[0], t[1], (2 * t[2]) ** 2, (2 * t[3]) ** 2
        objectness, classes = t[4], t[5:]
    else:
        x, y, w, h = sigmoid(t[0]), sigmoid(t[1]), math.exp(t[2]), math.exp(t[3])
        objectness, classes = sigmoid(t[4]), [sigmoid(v) for v in t[5:]]
    box = (
        (column + x * head.scale_x_y - shift) / width,
        (row + y * head.scale_x_y - shift) / height,
        w * anchor[0] / NET.w,
        h * anchor[1] / NET.h,
    )
    return box, [objectness * v for v in classes]


def decode_by_loop(raw, head):
    """[A * (5 + classes), h, w] -> boxes and scores, anchor by anchor, row by row."""
    per_anchor = 5 + head.classes
    _, height, width = raw.shape
    found = [
        decode_cell(
            raw[a * per_anchor : (a + 1) * per_anchor, i, j].tolist(), head, head.anchors[a], (j, i), (width, height)
        )
        for a in range(len(head.anchors))
        for i in range(height)
        for j in range(width)
    ]
    return np.array([box for box, _ in found]), np.array([scores for _, scores in found])


HEADS = {
    "yolov3": HeadSpec(kind="yolo", classes=4, anchors=ANCHORS),
    "yolov4": HeadSpec(kind="yolo", classes=1, anchors=ANCHORS[:2], scale_x_y=1.2),
    "scaled_yolov4": HeadSpec(kind="yolo", classes=3, anchors=ANCHORS, scale_x_y=2.0, new_coords=True),
    "yolov2": HeadSpec(kind="region", classes=4, anchors=((1.3, 2.0), (3.0, 0.5)), softmax=True),
    "region_without_softmax": HeadSpec(kind="region", classes=2, anchors=((1.3, 2.0),)),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("cells", [(2, 3), (1, 1), (4, 2)])
def test_decode_is_the_scalar_loop(name, cells):
    head = HEADS[name]
    raw = np.random.default_rng(5).normal(size=(2, head.channels, *cells))
    if head.new_coords:
        raw = 1 / (1 + np.exp(-raw))  # the layer before has a logistic activation
    found = decode_head(torch.from_numpy(raw), head, NET)
    assert found.boxes.shape == (2, len(head.anchors) * cells[0] * cells[1], 4)
    for n in range(2):
        boxes, scores = decode_by_loop(raw[n], head)
        np.testing.assert_allclose(found.boxes[n].numpy(), boxes, rtol=1e-12)
        np.testing.assert_allclose(found.scores[n].numpy(), scores, rtol=1e-12)


def test_zeros_give_the_anchor_in_the_middle_of_the_cell():
    head = HeadSpec(kind="yolo", classes=1, anchors=((24.0, 16.0),), scale_x_y=1.7)
    found = decode_head(torch.zeros(1, 6, 2, 3), head, NET)
    assert found.boxes[0, 4].tolist() == pytest.approx([1.5 / 3, 1.5 / 2, 0.25, 0.25])
    assert found.scores[0, :, 0].tolist() == [0.25] * 6


def test_scale_x_y_lets_centres_leave_the_cell():
    head = HeadSpec(kind="yolo", classes=1, anchors=((24.0, 16.0),), scale_x_y=1.2)
    raw = torch.zeros(1, 6, 1, 1)
    raw[0, 0], raw[0, 1] = 40, -40
    assert decode_head(raw, head, NET).boxes[0, 0, :2].tolist() == pytest.approx([1.1, -0.1])


def test_heads_are_joined_in_their_order():
    heads = [HEADS["yolov3"], HeadSpec(kind="yolo", classes=4, anchors=ANCHORS[:1])]
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 27, 2, 3, generator=rng), torch.randn(2, 9, 4, 6, generator=rng)]
    joined = decode_heads(maps, heads, NET)
    assert joined.boxes.shape == (2, 18 + 24, 4)
    for start, stop, raw, head in [(0, 18, maps[0], heads[0]), (18, 42, maps[1], heads[1])]:
        assert torch.equal(joined.boxes[:, start:stop], decode_head(raw, head, NET).boxes)
        assert torch.equal(joined.scores[:, start:stop], decode_head(raw, head, NET).scores)


def test_heads_of_different_classes_are_refused():
    heads = [HEADS["yolov3"], HEADS["scaled_yolov4"]]
    maps = [torch.zeros(1, head.channels, 2, 3) for head in heads]
    with pytest.raises(YoloHwError, match="heads with 3 and 4 classes"):
        decode_heads(maps, heads, NET)
