# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.batch_norm import batch_norm
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer, fold_bn, fold_bn_fake_quant, fold_bn_fake_quant_layers
from yolo_hw.ops.qat_conv_bn import ConvGeometry, WeightFormat, qat_conv_bn

__all__ = [
    "BatchNorm",
    "ConvGeometry",
    "FoldLayer",
    "WeightFormat",
    "batch_norm",
    "fake_quant_pow2",
    "fold_bn",
    "fold_bn_fake_quant",
    "fold_bn_fake_quant_layers",
    "qat_conv_bn",
]
