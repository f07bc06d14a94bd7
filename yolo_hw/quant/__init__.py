# SPDX-License-Identifier: Apache-2.0
"""Quantisation: from a float model and calibration images to an integer graph."""

from yolo_hw.quant.calibrate import Calibrated, calibrate
from yolo_hw.quant.config import (
    AdaRoundConfig,
    CorrectBy,
    EqualiseBy,
    LeakySlope,
    Observer,
    Override,
    QuantConfig,
)
from yolo_hw.quant.fold import fold_model
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.moments import batch_norm_moments
from yolo_hw.quant.post_training import quantise_model
from yolo_hw.quant.trace_module import trace_module

__all__ = [
    "AdaRoundConfig",
    "Calibrated",
    "CorrectBy",
    "EqualiseBy",
    "LeakySlope",
    "Observer",
    "Override",
    "QuantConfig",
    "batch_norm_moments",
    "calibrate",
    "fold_model",
    "lower_graph",
    "quantise_model",
    "trace_module",
]
