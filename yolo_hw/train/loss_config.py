# SPDX-License-Identifier: Apache-2.0
"""Weights and thresholds of the detection losses, and what a cfg says about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NoReturn

from yolo_hw.darknet.head_training import RegionTraining, YoloTraining
from yolo_hw.darknet.layers import DetectionHead
from yolo_hw.train.errors import TrainError
from yolo_hw.train.loss_entropy import Focal
from yolo_hw.train.targets import AssignConfig


class BoxLoss(str, Enum):
    """What a box is measured by; the loss is one minus the overlap, or YOLOv3's squared error."""

    MSE = "mse"
    """`yolo_hw.train.loss_boxes.squared_error`."""
    IOU = "iou"
    GIOU = "giou"
    DIOU = "diou"
    CIOU = "ciou"


class BoxGradient(str, Enum):
    """How the gradient of an overlap reaches the raw box values; the squared error has one form only."""

    EXACT = "exact"
    """By the chain rule."""
    DARKNET = "darknet"
    """As darknet does it, which the ``iou_normalizer`` of a cfg is meant for: see `with_darknet_gradient`."""


DARKNET_FOCAL = Focal(gamma=2.0, alpha=0.5)
"""The constants behind darknet's ``focal_loss=1``."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and thresholds of `YoloLoss` for one head."""

    box_loss: BoxLoss = BoxLoss.CIOU
    box_gradient: BoxGradient = BoxGradient.EXACT
    box_weight: float = 5.0
    objectness_weight: float = 1.0
    class_weight: float = 1.0
    ignore_iou: float = 0.7
    """A prediction that answers for nothing but overlaps an object more than this counts neither as right nor as
    wrong; darknet's ``ignore_thresh``."""
    truth_iou: float = 1.0
    """A prediction that overlaps an object more than this answers for its presence and class, too; darknet's
    ``truth_thresh``. At 1 none does."""
    objectness_smooth: float = 0.0
    """Share s of the overlap in the objectness target ``(1 - s) + s * IoU``, in [0, 1]; darknet's key of that name."""
    label_smoothing: float = 0.0
    """Share of the uniform distribution in the class targets, in [0, 1); darknet's ``label_smooth_eps``."""
    class_focal: Focal | None = None
    """Focal loss of the classes; darknet's ``focal_loss``."""
    objectness_focal: Focal | None = None
    """Focal loss of the objectness."""
    class_balance: tuple[float, ...] = ()
    """Factor of every class on its objects' box, objectness and class; empty for 1. See ``counters_per_class``."""
    max_box_gradient: float = math.inf
    """Largest gradient of the weighted box loss by one raw value, before the normaliser; darknet's ``max_delta``."""
    assign: AssignConfig = field(default_factory=AssignConfig)

    def __post_init__(self) -> None:
        """Check the ranges and take names for enumerations."""
        for name, kind in (("box_loss", BoxLoss), ("box_gradient", BoxGradient)):
            _require(self, name, getattr(self, name) in list(kind), f"one of {', '.join(kind)}")
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in ("box_weight", "objectness_weight", "class_weight"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("ignore_iou", "truth_iou", "objectness_smooth"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        _require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        _require(self, "class_balance", all(w > 0 for w in self.class_balance), "positive")
        _require(self, "max_box_gradient", self.max_box_gradient > 0, "positive")

    @classmethod
    def of_head(cls, head: DetectionHead, **overrides: Any) -> LossConfig:  # noqa: ANN401
        """Return what the head's cfg section says; a key it does not give has darknet's default.

        Args:
            head: A ``[yolo]`` head.
            **overrides: Fields of `LossConfig` that replace what the section says.

        Raises:
            TrainError: A key asks for what this loss does not do; names the head, its line and the key.
        """
        cfg = head.training
        if not isinstance(cfg, YoloTraining):
            _refuse(head, "a LossConfig needs a [yolo] section")
        _refuse_map(head)
        if cfg.iou_loss not in list(BoxLoss):
            _refuse(head, f"iou_loss must be one of {', '.join(BoxLoss)}, got '{cfg.iou_loss}'")
        if cfg.iou_thresh_kind != "iou":
            _refuse(head, f"iou_thresh_kind={cfg.iou_thresh_kind} is not supported; only iou is")
        overlap = cfg.iou_loss != BoxLoss.MSE
        found = cls(
            box_loss=BoxLoss(cfg.iou_loss),
            box_gradient=BoxGradient.DARKNET if overlap else BoxGradient.EXACT,
            box_weight=cfg.delta_normalizer * cfg.iou_normalizer,
            objectness_weight=cfg.delta_normalizer * cfg.obj_normalizer,
            class_weight=cfg.delta_normalizer * cfg.cls_normalizer,
            ignore_iou=cfg.ignore_thresh,
            truth_iou=cfg.truth_thresh,
            objectness_smooth=cfg.objectness_smooth,
            label_smoothing=cfg.label_smooth_eps,
            class_focal=DARKNET_FOCAL if cfg.focal_loss else None,
            class_balance=_class_balance(head, cfg),
            max_box_gradient=cfg.delta_normalizer * cfg.max_delta if overlap else math.inf,
            assign=AssignConfig(anchor_iou=cfg.iou_thresh),
        )
        return replace(found, **overrides)


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """Weights and thresholds of `RegionLoss` for one head, by darknet's names."""

    coord_scale: float = 1.0
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    thresh: float = 0.5
    """As `LossConfig.ignore_iou`."""
    bias_match: bool = False
    """An object's prediction is the one whose anchor fits its shape best, not the one whose predicted shape does."""
    rescore: bool = False
    """The confidence to learn is the IoU of the prediction, not 1."""
    label_smoothing: float = 0.0
    """Share of the uniform distribution in the class targets, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("coord_scale", "object_scale", "noobject_scale", "class_scale"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        _require(self, "thresh", 0 <= self.thresh <= 1, "in [0, 1]")
        _require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")

    @classmethod
    def of_head(cls, head: DetectionHead, **overrides: Any) -> RegionConfig:  # noqa: ANN401
        """Return what the head's cfg section says; see `LossConfig.of_head`."""
        cfg = head.training
        if not isinstance(cfg, RegionTraining):
            _refuse(head, "a RegionConfig needs a [region] section")
        _refuse_map(head)
        if cfg.classfix:
            _refuse(head, f"classfix={cfg.classfix:g} is not supported; only 0 is")
        if cfg.focal_loss:
            _refuse(head, "focal_loss=1 is not supported in [region]; only 0 is")
        same = ("coord_scale", "object_scale", "noobject_scale", "class_scale", "thresh", "bias_match", "rescore")
        return replace(cls(**{name: getattr(cfg, name) for name in same}), **overrides)


def _class_balance(head: DetectionHead, cfg: YoloTraining) -> tuple[float, ...]:
    """Return darknet's factors: the largest counter over a class's own, at most max_delta."""
    counters = cfg.counters_per_class
    if not counters:
        return ()
    if len(counters) != head.spec.classes or min(counters) < 1:
        _refuse(head, f"counters_per_class must be {head.spec.classes} positive numbers, got {counters}")
    return tuple(min(max(counters) / counter, cfg.max_delta) for counter in counters)


def _refuse_map(head: DetectionHead) -> None:
    if head.training.map:
        _refuse(head, "map (classes renumbered by a file) is not supported; renumber the labels")


def _refuse(head: DetectionHead, message: str) -> NoReturn:
    raise TrainError(f"{head.name} (line {head.place.line} of the cfg): {message}")


def _require(config: LossConfig | RegionConfig, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise TrainError(f"{type(config).__name__}: {name} must be {what}, got {getattr(config, name)}")
