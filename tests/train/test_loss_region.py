# SPDX-License-Identifier: Apache-2.0
"""The loss of [region] heads: zero where it should be, values by hand, who answers, gradients by differences."""

from __future__ import annotations

import math

import pytest
import torch
from support.loss_heads import NET, batch, head, random_batch, random_maps, region_spec, total, yolo_spec

from yolo_hw.nn.heads import decode_head
from yolo_hw.train import RegionConfig, RegionLoss, TrainError

SPEC = region_spec((1.0, 1.5), (2.5, 2.0))  # cells of 16 pixels: 16 x 24 and 40 x 32
HEAD = head(SPEC, (4, 4))
CERTAIN = 30.0
"""A logit whose sigmoid is 1 in float32, and a lead after which a softmax is."""
OBJECT = [0, 2, 0.40, 0.65, 16 / 64, 24 / 64]
WEIGHT = 2 - (16 / 64) * (24 / 64)


def logit(p):
    return math.log(p / (1 - p))


def perfect_map():
    """A 4 x 4 map of two images: image 0 has exactly OBJECT, from its first anchor in row 2, column 1."""
    raw = torch.zeros(2, 2, 8, 4, 4)
    raw[:, :, 4] = -CERTAIN
    cell = raw[0, 0, :, 2, 1]
    cell[0] = cell[1] = logit(0.6)  # 0.40 * 4 = 1.6, 0.65 * 4 = 2.6
    cell[4] = CERTAIN
    cell[7] = CERTAIN
    return raw.reshape(2, 16, 4, 4)


def view(raw):
    return raw.reshape(2, 2, 8, 4, 4)


def terms(raw, rows, spec=SPEC, **options):
    loss = RegionLoss([head(spec, (4, 4))], NET, [RegionConfig(**options)])
    return {name: float(value) for name, value in loss([raw], batch(rows)).items()}


def test_perfect_prediction_costs_nothing():
    raw = perfect_map()
    assert decode_head(raw, SPEC, NET).boxes[0, 2 * 4 + 1].tolist() == pytest.approx(OBJECT[2:])
    for options in ({}, {"bias_match": True, "rescore": True}):
        assert terms(raw, [OBJECT], **options) == pytest.approx({"box": 0, "objectness": 0, "class": 0}, abs=1e-5)


def test_box_error_by_hand():
    raw = perfect_map()
    cell = view(raw)[0, 0, :, 2, 1]
    cell[0], cell[1] = logit(0.5), logit(0.9)  # off by -0.1 and 0.3 cells
    cell[2], cell[3] = 0.2, -0.4  # off by as much
    error = 0.5 * WEIGHT * (0.1**2 + 0.3**2 + 0.2**2 + 0.4**2)
    assert terms(raw, [OBJECT], coord_scale=3.0)["box"] == pytest.approx(3 * error, rel=1e-5)


def test_missed_object_and_false_alarm_by_hand():
    raw = perfect_map()
    view(raw)[0, 0, 4, 2, 1] = logit(0.25)
    view(raw)[1, 1, 4, 0, 0] = logit(0.5)
    found = terms(raw, [OBJECT], object_scale=5.0, noobject_scale=2.0)["objectness"]
    assert found == pytest.approx(0.5 * 5 * 0.75**2 + 0.5 * 2 * 0.5**2, rel=1e-5)


def test_prediction_that_overlaps_an_object_well_is_ignored():
    raw = perfect_map()
    twin = view(raw)[0, 1, :, 2, 1]  # the other anchor of the cell predicts the same box
    twin[0] = twin[1] = logit(0.6)
    twin[2], twin[3] = math.log(1 / 2.5), math.log(1.5 / 2.0)
    twin[4] = CERTAIN
    assert terms(raw, [OBJECT], bias_match=True)["objectness"] == pytest.approx(0, abs=1e-6)
    assert terms(raw, [OBJECT], bias_match=True, thresh=1.0)["objectness"] == pytest.approx(0.5, rel=1e-4)


def test_rescore_teaches_the_overlap():
    raw = perfect_map()
    cell = view(raw)[0, 0, :, 2, 1]
    cell[2] = math.log(0.5)  # half the width: IoU 1/2
    cell[4] = logit(0.5)
    assert terms(raw, [OBJECT], bias_match=True, rescore=True)["objectness"] == pytest.approx(0, abs=1e-6)
    assert terms(raw, [OBJECT], bias_match=True)["objectness"] == pytest.approx(0.5 * 0.5**2, rel=1e-5)


def test_prediction_is_chosen_by_anchor_or_by_predicted_shape():
    """The second anchor is 40 x 32, but what it predicts has the object's shape, and the first one's has not."""
    raw = torch.zeros(2, 16, 4, 4)
    view(raw)[0, 0, 2:4, 2, 1] = 1.0
    view(raw)[0, 1, 2, 2, 1] = math.log(1 / 2.5)
    view(raw)[0, 1, 3, 2, 1] = math.log(1.5 / 2.0)
    centre = 2 * 0.1**2  # sigmoid(0) is 0.1 cells off
    by_anchor = terms(raw, [OBJECT], bias_match=True)["box"]
    by_shape = terms(raw, [OBJECT], bias_match=False)["box"]
    assert by_anchor == pytest.approx(0.5 * WEIGHT * (centre + 2.0), rel=1e-5)
    assert by_shape == pytest.approx(0.5 * WEIGHT * centre, rel=1e-5)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_classes_behind_a_softmax(eps):
    raw = torch.zeros(2, 16, 4, 4)
    view(raw)[0, :, 5:8, 2, 1] = torch.tensor([math.log(0.2), math.log(0.3), math.log(0.5)])
    goals = [eps / 3, eps / 3, 1 - eps + eps / 3]
    entropy = -sum(g * math.log(p) for g, p in zip(goals, (0.2, 0.3, 0.5), strict=True))
    assert terms(raw, [OBJECT], class_scale=2.0, label_smoothing=eps)["class"] == pytest.approx(2 * entropy, rel=1e-5)


def test_classes_of_single_sigmoids():
    raw = torch.zeros(2, 16, 4, 4)
    spec = region_spec((1.0, 1.5), (2.5, 2.0), softmax=False)
    view(raw)[0, :, 5:8, 2, 1] = torch.tensor([logit(0.2), logit(0.3), logit(0.6)])
    wanted = -math.log(0.8) - math.log(0.7) - math.log(0.6)
    assert terms(raw, [OBJECT], spec=spec)["class"] == pytest.approx(wanted, rel=1e-5)


def test_prediction_that_two_objects_want_goes_to_the_better_fitting_one():
    raw = torch.zeros(2, 16, 4, 4)
    worse = [0, 0, 0.45, 0.60, 18 / 64, 24 / 64]
    for rows in ([OBJECT, worse], [worse, OBJECT]):
        found = terms(raw, rows, bias_match=True)
        assert found["box"] == pytest.approx(0.5 * WEIGHT * 2 * 0.1**2 / 2, rel=1e-5)  # shared by two objects


def test_image_without_objects_costs_its_false_alarms_only():
    found = terms(perfect_map(), [])
    assert found == pytest.approx({"box": 0, "objectness": 0.5, "class": 0}, rel=1e-4)


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "sigmoids"])
@pytest.mark.parametrize("bias_match", [True, False], ids=["anchor", "shape"])
def test_gradient(softmax, bias_match):
    heads = [head(region_spec((1.0, 1.5), (2.5, 2.0), classes=2, softmax=softmax), (2, 2))]
    config = RegionConfig(bias_match=bias_match, label_smoothing=0.1, object_scale=5.0)
    loss = RegionLoss(heads, NET, [config])
    data = random_batch(4, 2, 2, seed=5)
    assert torch.autograd.gradcheck(lambda m: total(loss([m], data)), random_maps(heads, 2, seed=3))


def test_heads_of_other_kinds_are_refused():
    with pytest.raises(TrainError, match=r"yolo_0 must be a \[region\] section, got \[yolo\]"):
        RegionLoss([head(yolo_spec((1.0, 1.0)), (4, 4))], NET, [RegionConfig()])
