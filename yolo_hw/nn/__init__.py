# SPDX-License-Identifier: Apache-2.0
"""Detectors in torch: the darknet model, its heads and non-maximum suppression."""

from yolo_hw.nn.darknet import DARKNET_BN_EPS, Darknet, load_darknet
from yolo_hw.nn.heads import Candidates, decode_head, decode_heads
from yolo_hw.nn.nms import Detections, NmsConfig, non_maximum_suppression

__all__ = [
    "DARKNET_BN_EPS",
    "Candidates",
    "Darknet",
    "Detections",
    "NmsConfig",
    "decode_head",
    "decode_heads",
    "load_darknet",
    "non_maximum_suppression",
]
