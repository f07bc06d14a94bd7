# SPDX-License-Identifier: Apache-2.0
"""The detection loss: zero where it should be, gradients as differences say, one convention with the decoder."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.nn.heads import decode_head
from yolo_hw.nn.nms import centre_to_corners, pairwise_iou
from yolo_hw.train import AssignConfig, Batch, BoxLoss, LossConfig, TrainError, YoloLoss

NET = Shape(3, 64, 64)
HEAD = HeadSpec(kind="yolo", classes=3, anchors=((16.0, 24.0), (40.0, 30.0)), scale_x_y=1.2)
ONLY_BEST = AssignConfig(anchor_iou=1.0, reach_margin=0.5)
CERTAIN = 30.0
"""A logit whose sigmoid is 1 in float32."""


def batch(rows):
    return Batch(torch.zeros(2, 3, 64, 64), torch.tensor(rows, dtype=torch.float32).reshape(-1, 6))


def logit(p):
    return math.log(p / (1 - p))


def perfect_map():
    """A 4 x 4 map of image 0 that predicts exactly one 16 x 24 object of class 2 at (0.40, 0.65)."""
    raw = torch.zeros(2, 2, 8, 4, 4)
    raw[:, :, 4] = -CERTAIN
    a = HEAD.scale_x_y
    column, row = 1, 2  # 0.40 * 4 = 1.6, 0.65 * 4 = 2.6
    cell = raw[0, 0, :, row, column]
    cell[0] = cell[1] = logit((0.6 + 0.5 * (a - 1)) / a)
    cell[4] = CERTAIN
    cell[5:] = torch.tensor([-CERTAIN, -CERTAIN, CERTAIN])
    return raw.reshape(2, 16, 4, 4)


OBJECT = [0, 2, 0.40, 0.65, 16 / 64, 24 / 64]


def terms(raw, rows, **options):
    config = LossConfig(assign=ONLY_BEST, **options)
    return {name: float(value) for name, value in YoloLoss([HEAD], NET, config)([raw], batch(rows)).items()}


def test_perfect_prediction_costs_nothing():
    assert terms(perfect_map(), [OBJECT]) == pytest.approx({"box": 0, "objectness": 0, "class": 0}, abs=1e-5)


def test_decoder_agrees_with_the_perfect_prediction():
    boxes = decode_head(perfect_map(), HEAD, NET).boxes[0]
    truth = torch.tensor([OBJECT[2:]])
    overlap = pairwise_iou(centre_to_corners(boxes), centre_to_corners(truth))
    assert overlap.max().item() == pytest.approx(1.0, abs=1e-5)


def test_wrong_class_costs_two_certain_errors():
    assert terms(perfect_map(), [[0, 0, *OBJECT[2:]]])["class"] == pytest.approx(2 * CERTAIN, rel=1e-5)


def test_missed_object_costs_its_logit():
    raw = perfect_map()
    raw[0, 4, 2, 1] = -CERTAIN
    assert terms(raw, [OBJECT])["objectness"] == pytest.approx(CERTAIN, rel=1e-5)


def test_false_alarm_costs_its_logit_and_is_shared_among_positives():
    raw = perfect_map()
    raw[1, 4, 0, 0] = CERTAIN
    assert terms(raw, [OBJECT])["objectness"] == pytest.approx(CERTAIN, rel=1e-5)
    second = [1, 2, 0.9, 0.9, 16 / 64, 24 / 64]  # found wanting: its own logit is -CERTAIN
    assert terms(raw, [OBJECT, second])["objectness"] == pytest.approx((CERTAIN + CERTAIN) / 2, rel=1e-5)


def test_image_without_objects_costs_its_false_alarms_only():
    raw = perfect_map()
    assert terms(raw, []) == pytest.approx({"box": 0, "objectness": CERTAIN, "class": 0}, rel=1e-4)


def test_prediction_that_overlaps_an_object_well_is_ignored():
    raw = perfect_map()
    twin = raw.reshape(2, 2, 8, 4, 4)[0, 0, :, 2, 2]  # the cell to the right predicts almost the same box
    twin[0], twin[1] = logit((0.02 + 0.1) / 1.2), logit((0.6 + 0.1) / 1.2)
    twin[4] = CERTAIN
    wide = [*OBJECT[:4], 1.0, 1.0]  # so large that a shift of 0.1 leaves an overlap of about 0.9
    raw.reshape(2, 2, 8, 4, 4)[0, :, 2, 2, 1:3] = math.log(64 / 16)
    raw.reshape(2, 2, 8, 4, 4)[0, :, 3, 2, 1:3] = math.log(64 / 24)
    head = HeadSpec(kind="yolo", classes=3, anchors=((16.0, 24.0), (1.0, 1.0)), scale_x_y=1.2)
    costs = {}
    for threshold in (0.7, 1.0):
        config = LossConfig(assign=ONLY_BEST, ignore_iou=threshold)
        costs[threshold] = float(YoloLoss([head], NET, config)([raw], batch([wide]))["objectness"])
    assert costs[0.7] == pytest.approx(0, abs=1e-4)
    assert costs[1.0] == pytest.approx(CERTAIN, rel=1e-4)


def test_objectness_goal_follows_the_overlap_if_asked_to():
    raw = perfect_map()
    raw[0, 2, 2, 1] = math.log(0.5)  # half the width: IoU 1/2
    raw[0, 4, 2, 1] = logit(0.75)  # with s = 1/2 the goal is 3/4, and this logit is the best answer
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert terms(raw, [OBJECT], objectness_smooth=0.5)["objectness"] == pytest.approx(entropy, rel=1e-4)
    assert terms(raw, [OBJECT], objectness_smooth=0.0)["objectness"] == pytest.approx(-math.log(0.75), rel=1e-4)


def test_weights_scale_their_terms():
    raw = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = terms(raw, [OBJECT], box_weight=1.0, objectness_weight=1.0, class_weight=1.0)
    scaled = terms(raw, [OBJECT], box_weight=2.0, objectness_weight=3.0, class_weight=0.5)
    expected = {"box": 2 * plain["box"], "objectness": 3 * plain["objectness"], "class": 0.5 * plain["class"]}
    assert scaled == pytest.approx(expected, rel=1e-5)


def test_gradient_with_two_heads_and_giou():
    """GIoU and both cross entropies are smooth here; CIoU's frozen alpha is checked in test_box_iou."""
    second = HeadSpec(kind="yolo", classes=3, anchors=((12.0, 12.0),), scale_x_y=2.0)
    config = LossConfig(box_loss=BoxLoss.GIOU, assign=AssignConfig(anchor_iou=0.2))
    loss = YoloLoss([HEAD, second], NET, config)
    rows = torch.tensor([OBJECT, [1, 0, 0.3, 0.3, 0.2, 0.2], [1, 1, 0.8, 0.7, 0.6, 0.5]], dtype=torch.float64)
    data = Batch(torch.zeros(2, 3, 64, 64), rows)
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 16, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)]
    maps.append(torch.randn(2, 8, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True))
    assert torch.autograd.gradcheck(lambda *m: torch.stack(list(loss(m, data).values())).sum(), maps)


def test_heads_of_other_kinds_are_refused():
    with pytest.raises(TrainError, match=r"head 0 must be a \[yolo\] section with new_coords=0, got \[region\]"):
        YoloLoss([HeadSpec(kind="region", classes=1, anchors=((1.0, 1.0),))], NET)
    with pytest.raises(TrainError, match="got new_coords=1"):
        YoloLoss([HeadSpec(kind="yolo", classes=1, anchors=((1.0, 1.0),), new_coords=True)], NET)


@pytest.mark.parametrize("options", [{"box_weight": -1.0}, {"ignore_iou": 1.5}, {"objectness_smooth": -0.1}])
def test_config_refuses_what_cannot_be(options):
    with pytest.raises(TrainError, match=next(iter(options))):
        LossConfig(**options)
