# SPDX-License-Identifier: Apache-2.0
"""What the head sections of a cfg say about the loss, with darknet's defaults. Fields have the names of the keys.

Numbers are checked when a cfg is read; what a loss makes of them, and which of them it refuses, is the loss's matter: a
network that is only run must not fail for a key of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class YoloTraining:
    """The keys of a ``[yolo]`` section that concern its loss; `LossConfig.of_head` explains them."""

    iou_loss: str = "mse"
    iou_normalizer: float = 0.75
    obj_normalizer: float = 1.0
    cls_normalizer: float = 1.0
    delta_normalizer: float = 1.0
    iou_thresh: float = 1.0
    iou_thresh_kind: str = "iou"
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    label_smooth_eps: float = 0.0
    objectness_smooth: float = 0.0
    focal_loss: bool = False
    max_delta: float = math.inf
    counters_per_class: tuple[int, ...] = ()
    map: str = ""


@dataclass(frozen=True, kw_only=True)
class RegionTraining:
    """The keys of a ``[region]`` section that concern its loss; `RegionConfig.of_head` explains them."""

    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    coord_scale: float = 1.0
    thresh: float = 0.5
    bias_match: bool = False
    rescore: bool = False
    classfix: float = 0.0
    focal_loss: bool = False
    map: str = ""
