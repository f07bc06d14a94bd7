# SPDX-License-Identifier: Apache-2.0
"""What a cfg says about the loss: every key is taken or refused by name."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from support.loss_heads import head, region_spec, yolo_spec
from support.networks import build

from yolo_hw.darknet.head_training import RegionTraining, YoloTraining
from yolo_hw.darknet.keys import TRAINING
from yolo_hw.train import AssignConfig, BoxGradient, BoxLoss, Focal, LossConfig, RegionConfig, TrainError

SPEC = yolo_spec((16.0, 24.0))
REGION = region_spec((1.0, 2.0))


def yolo(**keys):
    return LossConfig.of_head(head(SPEC, (4, 4), **keys))


def region(**keys):
    return RegionConfig.of_head(head(REGION, (4, 4), **keys))


def test_section_without_keys_has_darknets_defaults():
    assert yolo() == LossConfig(
        box_loss=BoxLoss.MSE,
        box_weight=0.75,
        objectness_weight=1.0,
        class_weight=1.0,
        ignore_iou=0.5,
        truth_iou=1.0,
        assign=AssignConfig(anchor_iou=1.0),
    )
    assert region() == RegionConfig()


SECTION = """
[net]
height=32
width=32
[convolutional]
filters=14
[yolo]
classes=2
num=2
anchors=4,4, 8,8
iou_loss=ciou
iou_normalizer=.07
obj_normalizer=.4
cls_normalizer=.5
delta_normalizer=2
iou_thresh=.213
iou_thresh_kind=iou
ignore_thresh=.6
truth_thresh=.9
label_smooth_eps=.1
objectness_smooth=1
focal_loss=1
max_delta=5
counters_per_class=30, 3
"""


def test_every_key_of_a_section_arrives():
    config = LossConfig.of_head(build(SECTION).heads[0])
    assert config == LossConfig(
        box_loss=BoxLoss.CIOU,
        box_gradient=BoxGradient.DARKNET,
        box_weight=2 * 0.07,
        objectness_weight=2 * 0.4,
        class_weight=2 * 0.5,
        ignore_iou=0.6,
        truth_iou=0.9,
        objectness_smooth=1.0,
        label_smoothing=0.1,
        class_focal=Focal(gamma=2.0, alpha=0.5),
        class_balance=(1.0, 5.0),  # 30 / 3, cut to max_delta
        max_box_gradient=10.0,
        assign=AssignConfig(anchor_iou=0.213),
    )


def test_region_section_arrives():
    text = (
        "[net]\nheight=32\nwidth=32\n[convolutional]\nfilters=14\n[region]\nclasses=2\nnum=2\nanchors=1,1,2,2\n"
        "object_scale=5\nnoobject_scale=2\nclass_scale=3\ncoord_scale=4\nthresh=.6\nbias_match=1\nrescore=1\nclassfix=0\n"
    )
    assert RegionConfig.of_head(build(text).heads[0]) == RegionConfig(
        object_scale=5.0,
        noobject_scale=2.0,
        class_scale=3.0,
        coord_scale=4.0,
        thresh=0.6,
        bias_match=True,
        rescore=True,
    )


@pytest.mark.parametrize(("kind", "record"), [("yolo", YoloTraining), ("region", RegionTraining)])
def test_typed_keys_are_keys_of_the_section(kind, record):
    assert {field.name for field in fields(record)} <= TRAINING[kind]


NOT_OF_THE_LOSS = set(
    # input pipeline, and the size of darknet's label buffer
    "jitter random resize max "
    # suppression, display, tracking
    "nms beta_nms nms_kind show_details track_history_size sim_thresh dets_for_track dets_for_show track_ciou_norm "
    "embedding_layer "
    # of every layer: what is trained and loaded
    "stopbackward train_only_bn dontload dontloadscales onlyforward learning_rate name "
    # of darknet's first detector, which its [region] layer reads and does not use; mask_scale: coords above 4
    "absolute log sqrt mask_scale".split()
)


def test_no_key_of_a_yolo_section_is_silently_skipped():
    taken = {field.name for field in fields(YoloTraining)}
    left = TRAINING["yolo"] - taken - NOT_OF_THE_LOSS
    assert left == {"thresh"}  # a key of [region]; darknet's [yolo] has ignore_thresh


def test_no_key_of_a_region_section_is_silently_skipped():
    taken = {field.name for field in fields(RegionTraining)}
    left = TRAINING["region"] - taken - NOT_OF_THE_LOSS
    assert left <= {
        field.name for field in fields(YoloTraining)
    }  # keys of [yolo], which darknet's [region] does not read


def test_overrides_replace_what_the_section_says():
    config = LossConfig.of_head(
        head(SPEC, (4, 4), iou_loss="ciou", iou_normalizer=0.07), box_weight=5.0, box_gradient="exact"
    )
    assert (config.box_loss, config.box_weight, config.box_gradient) == (BoxLoss.CIOU, 5.0, BoxGradient.EXACT)
    assert RegionConfig.of_head(head(REGION, (4, 4), thresh=0.6), thresh=0.3).thresh == 0.3


def test_max_delta_does_not_concern_the_squared_error():
    assert yolo(max_delta=5.0).max_box_gradient == math.inf
    assert yolo(max_delta=5.0, iou_loss="iou").max_box_gradient == 5.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"iou_loss": "eiou"}, "iou_loss must be one of mse, iou, giou, diou, ciou, got 'eiou'"),
        ({"iou_thresh_kind": "giou"}, "iou_thresh_kind=giou is not supported; only iou is"),
        ({"map": "coco.map"}, "map .* is not supported"),
        ({"counters_per_class": (1, 2)}, r"counters_per_class must be 3 positive numbers, got \(1, 2\)"),
        ({"counters_per_class": (1, 2, 0)}, "counters_per_class must be 3 positive numbers"),
    ],
)
def test_yolo_keys_that_are_refused(keys, message):
    with pytest.raises(TrainError, match=r"yolo_0 \(line 7 of the cfg\): " + message):
        yolo(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classfix": -1.0}, "classfix=-1 is not supported; only 0 is"),
        ({"focal_loss": True}, r"focal_loss=1 is not supported in \[region\]"),
        ({"map": "9k.map"}, "map .* is not supported"),
    ],
)
def test_region_keys_that_are_refused(keys, message):
    with pytest.raises(TrainError, match=r"region_0 \(line 7 of the cfg\): " + message):
        region(**keys)


def test_configs_refuse_heads_of_the_other_kind():
    with pytest.raises(TrainError, match=r"needs a \[yolo\] section"):
        LossConfig.of_head(head(REGION, (4, 4)))
    with pytest.raises(TrainError, match=r"needs a \[region\] section"):
        RegionConfig.of_head(head(SPEC, (4, 4)))


@pytest.mark.parametrize(
    "options",
    [
        {"box_weight": -1.0},
        {"ignore_iou": 1.5},
        {"truth_iou": -0.5},
        {"objectness_smooth": -0.1},
        {"label_smoothing": 1.0},
        {"class_balance": (1.0, 0.0)},
        {"max_box_gradient": 0.0},
        {"box_loss": "eiou"},
        {"box_gradient": "none"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_loss_config_refuses_what_cannot_be(options):
    with pytest.raises(TrainError, match=f"LossConfig: {next(iter(options))} must be"):
        LossConfig(**options)


@pytest.mark.parametrize("options", [{"coord_scale": -1.0}, {"thresh": 2.0}, {"label_smoothing": 1.0}])
def test_region_config_refuses_what_cannot_be(options):
    with pytest.raises(TrainError, match=f"RegionConfig: {next(iter(options))} must be"):
        RegionConfig(**options)
