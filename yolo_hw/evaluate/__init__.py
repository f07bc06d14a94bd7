# SPDX-License-Identifier: Apache-2.0
"""Running detectors on images and measuring them."""

from yolo_hw.evaluate.detector import DetectorConfig, FloatRunner, HeadRunner, ImageResult, detect_files, detect_images
from yolo_hw.evaluate.int_runner import IntRunner
from yolo_hw.evaluate.metrics import ClassMetrics, DetectionMetrics, evaluate_detections, match_classes

__all__ = [
    "ClassMetrics",
    "DetectionMetrics",
    "DetectorConfig",
    "FloatRunner",
    "HeadRunner",
    "ImageResult",
    "IntRunner",
    "detect_files",
    "detect_images",
    "evaluate_detections",
    "match_classes",
]
