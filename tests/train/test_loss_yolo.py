# SPDX-License-Identifier: Apache-2.0
"""The loss of [yolo] heads: zero where it should be, values by hand, darknet's deltas, gradients by differences."""

from __future__ import annotations

import math

import pytest
import torch
from support.loss_heads import NET, batch, head, random_batch, random_maps, region_spec, total, yolo_spec

from yolo_hw.nn.heads import decode_head
from yolo_hw.nn.nms import centre_to_corners, pairwise_iou
from yolo_hw.train import AssignConfig, Batch, BoxLoss, Focal, LossConfig, TrainError, YoloLoss

SPEC = yolo_spec((16.0, 24.0), (40.0, 30.0), scale_x_y=1.2)
HEAD = head(SPEC, (4, 4))
ONLY_BEST = AssignConfig(anchor_iou=1.0, reach_margin=0.5)
CERTAIN = 30.0
"""A logit whose sigmoid is 1 in float32."""


def logit(p):
    return math.log(p / (1 - p))


def perfect_map():
    """A 4 x 4 map of image 0 that predicts exactly one 16 x 24 object of class 2 at (0.40, 0.65)."""
    raw = torch.zeros(2, 2, 8, 4, 4)
    raw[:, :, 4] = -CERTAIN
    a = SPEC.scale_x_y
    column, row = 1, 2  # 0.40 * 4 = 1.6, 0.65 * 4 = 2.6
    cell = raw[0, 0, :, row, column]
    cell[0] = cell[1] = logit((0.6 + 0.5 * (a - 1)) / a)
    cell[4] = CERTAIN
    cell[5:] = torch.tensor([-CERTAIN, -CERTAIN, CERTAIN])
    return raw.reshape(2, 16, 4, 4)


OBJECT = [0, 2, 0.40, 0.65, 16 / 64, 24 / 64]


def terms(raw, rows, **options):
    config = LossConfig(assign=ONLY_BEST, **options)
    return {name: float(value) for name, value in YoloLoss([HEAD], NET, [config])([raw], batch(rows)).items()}


def test_perfect_prediction_costs_nothing():
    assert terms(perfect_map(), [OBJECT]) == pytest.approx({"box": 0, "objectness": 0, "class": 0}, abs=1e-5)


def test_decoder_agrees_with_the_perfect_prediction():
    boxes = decode_head(perfect_map(), SPEC, NET).boxes[0]
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
    narrow = head(yolo_spec((16.0, 24.0), (1.0, 1.0), scale_x_y=1.2), (4, 4))
    costs = {}
    for threshold in (0.7, 1.0):
        config = LossConfig(assign=ONLY_BEST, ignore_iou=threshold)
        costs[threshold] = float(YoloLoss([narrow], NET, [config])([raw], batch([wide]))["objectness"])
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


def test_label_smoothing_moves_the_best_class_logits():
    """With eps the best sigmoids are 1 - eps / 2 and eps / 2; there the loss is the entropy of the goals."""
    raw = perfect_map()
    eps = 0.2
    raw[0, 5:8, 2, 1] = torch.tensor([logit(0.1), logit(0.1), logit(0.9)])
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert terms(raw, [OBJECT], label_smoothing=eps)["class"] == pytest.approx(3 * entropy, rel=1e-5)


def test_focal_loss_of_classes_and_objectness():
    raw = torch.zeros(2, 16, 4, 4)
    focal = Focal(gamma=2.0, alpha=0.25)
    found = terms(raw, [OBJECT], class_focal=focal, objectness_focal=focal, ignore_iou=1.0)
    unit = 0.25 * math.log(2)  # (1 - p)**2 log p at p = 1/2
    assert found["class"] == pytest.approx(unit * (0.25 + 2 * 0.75), rel=1e-5)
    assert found["objectness"] == pytest.approx(unit * (0.25 + 63 * 0.75), rel=1e-5)


@pytest.mark.parametrize("box_loss", ["mse", "ciou"])
def test_class_balance_weighs_box_objectness_and_the_own_class(box_loss):
    raw = torch.zeros(2, 16, 4, 4)
    plain = terms(raw, [OBJECT], ignore_iou=1.0, box_loss=box_loss)
    balanced = terms(raw, [OBJECT], ignore_iou=1.0, box_loss=box_loss, class_balance=(1.0, 2.0, 5.0))
    assert plain["box"] > 0
    assert balanced["box"] == pytest.approx(5 * plain["box"], rel=1e-5)
    assert balanced["objectness"] - plain["objectness"] == pytest.approx(4 * math.log(2), rel=1e-4)
    assert balanced["class"] - plain["class"] == pytest.approx(4 * math.log(2), rel=1e-4)


def test_prediction_above_truth_iou_answers_for_presence_and_class():
    raw = perfect_map()
    twin = raw.reshape(2, 2, 8, 4, 4)[0, 1, :, 2, 1]  # the other anchor of the cell predicts the same box
    twin[0] = twin[1] = logit((0.6 + 0.1) / 1.2)
    twin[2], twin[3] = math.log(16 / 40), math.log(24 / 30)
    ignored = terms(raw, [OBJECT], truth_iou=1.0)
    assert ignored["objectness"] == pytest.approx(0, abs=1e-4)
    answering = terms(raw, [OBJECT], truth_iou=0.9)
    assert answering["objectness"] == pytest.approx(CERTAIN, rel=1e-4)  # its logit is -CERTAIN
    assert answering["class"] == pytest.approx(3 * math.log(2), rel=1e-4)  # its class logits are 0


def test_positive_above_truth_iou_is_counted_once():
    raw = perfect_map()
    raw[0, 5:8, 2, 1] = 0
    assert terms(raw, [OBJECT], truth_iou=0.5)["class"] == pytest.approx(3 * math.log(2), rel=1e-5)


def darknet_deltas(raw, data, config, spec):
    """Return darknet's update directions, negated: loops over all predictions and objects, nothing shared."""
    n, _, rows, columns = raw.shape
    t = raw.reshape(n, len(spec.anchors), -1, rows, columns)
    delta = torch.zeros_like(t)
    boxes = decode_head(raw, spec, NET).boxes.reshape(n, len(spec.anchors), rows, columns, 4)
    a, eps = spec.scale_x_y, config.label_smoothing
    for image in range(n):
        mine = [row for row in data.targets.tolist() if row[0] == image]
        corners = centre_to_corners(torch.tensor([row[2:] for row in mine], dtype=raw.dtype).reshape(-1, 4))
        for anchor in range(len(spec.anchors)):
            for j in range(rows):
                for i in range(columns):
                    box = centre_to_corners(boxes[image, anchor, j, i][None])
                    best = max(pairwise_iou(box, corners)[0].tolist(), default=0.0)
                    if best <= config.ignore_iou:
                        delta[image, anchor, 4, j, i] = config.objectness_weight * t[image, anchor, 4, j, i].sigmoid()
        for _, label, x, y, w, h in mine:
            shapes = [min(w * 64, aw) * min(h * 64, ah) for aw, ah in spec.anchors]
            fits = [s / (w * h * 4096 + aw * ah - s) for s, (aw, ah) in zip(shapes, spec.anchors, strict=True)]
            for anchor, fit in enumerate(fits):
                if fit != max(fits) and fit <= config.assign.anchor_iou:
                    continue
                i, j = int(x * columns), int(y * rows)
                v, d = t[image, anchor, :, j, i], delta[image, anchor, :, j, i]
                true = [
                    x * columns - i,
                    y * rows - j,
                    *(math.log(s * 64 / z) for s, z in zip((w, h), spec.anchors[anchor], strict=True)),
                ]
                now = [*(a * v[:2].sigmoid() - 0.5 * (a - 1)).tolist(), *v[2:4].tolist()]
                for k in range(4):
                    d[k] = config.box_weight * (2 - w * h) * (now[k] - true[k])
                d[4] = config.objectness_weight * (v[4].sigmoid() - 1)
                goal = torch.full((spec.classes,), eps / 2, dtype=raw.dtype)
                goal[int(label)] += 1 - eps
                d[5:] = config.class_weight * (v[5:].sigmoid() - goal)
    return delta.reshape(raw.shape)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("anchor_iou", [1.0, 0.3])
def test_squared_error_loss_has_the_deltas_of_darknet(seed, anchor_iou):
    """The whole YOLOv3 loss: box, objectness with ignored predictions, smoothed classes, all anchors that fit."""
    config = LossConfig(
        box_loss=BoxLoss.MSE,
        box_weight=0.75,
        objectness_weight=0.5,
        class_weight=2.0,
        ignore_iou=0.4,
        label_smoothing=0.1,
        assign=AssignConfig(anchor_iou=anchor_iou, reach_margin=0.5),
    )
    data = random_batch(6, 3, SPEC.classes, seed)
    lonely = {(row[0], int(row[2] * 4), int(row[3] * 4)): row for row in data.targets.tolist()}
    data = Batch(
        data.images, torch.tensor(list(lonely.values()), dtype=torch.float64)
    )  # darknet adds up objects of a cell
    maps = random_maps([HEAD], 3, seed)
    loss = YoloLoss([HEAD], NET, [config])
    total(loss(maps, data, positives=1)).backward()
    torch.testing.assert_close(maps[0].grad, darknet_deltas(maps[0].detach(), data, config, SPEC))


@pytest.mark.parametrize("box_loss", [BoxLoss.MSE, BoxLoss.IOU, BoxLoss.GIOU, BoxLoss.DIOU])
@pytest.mark.parametrize("new_coords", [False, True], ids=["logits", "new_coords"])
@pytest.mark.parametrize("focal", [None, Focal()], ids=["plain", "focal"])
def test_gradient_with_two_heads(box_loss, new_coords, focal):
    """Everything but CIoU, whose frozen alpha is checked in test_box_iou, is the gradient of a function."""
    heads = [
        head(yolo_spec((16.0, 24.0), (40.0, 30.0), classes=2, scale_x_y=1.2, new_coords=new_coords), (1, 2)),
        head(yolo_spec((12.0, 12.0), classes=2, scale_x_y=2.0, new_coords=new_coords), (2, 1)),
    ]
    config = LossConfig(
        box_loss=box_loss,
        label_smoothing=0.1,
        class_focal=focal,
        objectness_focal=focal,
        class_balance=(1.0, 3.0),
        truth_iou=0.5,
        assign=AssignConfig(anchor_iou=0.2),
    )
    loss = YoloLoss(heads, NET, [config, config])
    data = random_batch(3, 2, 2, seed=5)
    maps = random_maps(heads, 2, seed=3)
    assert torch.autograd.gradcheck(lambda *m: total(loss(m, data)), maps)


def test_new_coords_gives_the_entropies_of_the_logits():
    plain = head(yolo_spec((16.0, 24.0), scale_x_y=2.0), (4, 4))
    sigmoided = head(yolo_spec((16.0, 24.0), scale_x_y=2.0, new_coords=True), (4, 4))
    data = random_batch(4, 2, 3, seed=1)
    (raw,) = random_maps([plain], 2, seed=2)
    config = LossConfig(ignore_iou=1.0, assign=ONLY_BEST)
    mine = YoloLoss([sigmoided], NET, [config])([raw.sigmoid()], data)
    reference = YoloLoss([plain], NET, [config])([raw], data)
    for name in ("objectness", "class"):
        torch.testing.assert_close(mine[name], reference[name])


def test_gradient_limit_cuts_the_box_gradient_only():
    data = random_batch(4, 2, 3, seed=1)
    gradients = {}
    for limit in (math.inf, 0.02):
        maps = random_maps([HEAD], 2, seed=2)
        config = LossConfig(box_loss=BoxLoss.GIOU, max_box_gradient=limit, assign=ONLY_BEST)
        total(YoloLoss([HEAD], NET, [config])(maps, data, positives=2)).backward()
        gradients[limit] = maps[0].grad.reshape(2, 2, 8, 4, 4)
    free, cut = gradients[math.inf], gradients[0.02]
    assert (free[:, :, :4].abs() > 0.01).any()
    torch.testing.assert_close(cut[:, :, :4], free[:, :, :4].clamp(-0.01, 0.01))
    assert torch.equal(cut[:, :, 4:], free[:, :, 4:])


def test_heads_of_other_kinds_are_refused():
    with pytest.raises(TrainError, match=r"region_0 must be a \[yolo\] section, got \[region\]"):
        YoloLoss([head(region_spec((1.0, 1.0)), (4, 4))], NET, [LossConfig()])


def test_factors_for_other_classes_are_refused():
    with pytest.raises(TrainError, match="class_balance must have one factor for each of 3 classes of yolo_0, got 2"):
        YoloLoss([HEAD], NET, [LossConfig(class_balance=(1.0, 2.0))])
