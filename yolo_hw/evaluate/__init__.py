# SPDX-License-Identifier: Apache-2.0
"""Running detectors on images and measuring them."""

from yolo_hw.evaluate.average_precision import DarknetMetrics, area_under_envelope, darknet_metrics, eleven_points
from yolo_hw.evaluate.confusion import confusion_matrix
from yolo_hw.evaluate.curves import Curves, make_curves
from yolo_hw.evaluate.detector import (
    DetectorConfig,
    FloatRunner,
    HeadRunner,
    ImageResult,
    StageTimes,
    detect_files,
    detect_images,
)
from yolo_hw.evaluate.int_runner import IntRunner
from yolo_hw.evaluate.matching import ClassMatches, MatchRule, match_detections
from yolo_hw.evaluate.metrics import ClassMetrics, DetectionMetrics, evaluate_detections, match_classes
from yolo_hw.evaluate.onnx_runner import OnnxRunner
from yolo_hw.evaluate.shards import Detected, Shard, detect_dataset, detect_shard, evaluate_dataset, merge_shards

__all__ = [
    "ClassMatches",
    "ClassMetrics",
    "Curves",
    "DarknetMetrics",
    "Detected",
    "DetectionMetrics",
    "DetectorConfig",
    "FloatRunner",
    "HeadRunner",
    "ImageResult",
    "IntRunner",
    "MatchRule",
    "OnnxRunner",
    "Shard",
    "StageTimes",
    "area_under_envelope",
    "confusion_matrix",
    "darknet_metrics",
    "detect_dataset",
    "detect_files",
    "detect_images",
    "detect_shard",
    "eleven_points",
    "evaluate_dataset",
    "evaluate_detections",
    "make_curves",
    "match_classes",
    "match_detections",
    "merge_shards",
]
