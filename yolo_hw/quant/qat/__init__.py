# SPDX-License-Identifier: Apache-2.0
"""Quantisation-aware training: the network trains with the numbers the hardware will compute."""

from yolo_hw.quant.qat.config import HeadForm, NormFold, QatConfig, ScaleMethod
from yolo_hw.quant.qat.freeze import FreezeQat
from yolo_hw.quant.qat.masks import qat_masks
from yolo_hw.quant.qat.model import QatModel
from yolo_hw.quant.qat.prepare import float_model, lower_model, prepare_qat

__all__ = [
    "FreezeQat",
    "HeadForm",
    "NormFold",
    "QatConfig",
    "QatModel",
    "ScaleMethod",
    "float_model",
    "lower_model",
    "prepare_qat",
    "qat_masks",
]
