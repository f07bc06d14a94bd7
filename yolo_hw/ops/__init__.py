# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.batch_norm import batch_norm
from yolo_hw.ops.cpu_path import cpu_path, set_cpu_path
from yolo_hw.ops.fake_quant_learned import fake_quant_lsq, fake_quant_tqt
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2, fake_quant_pow2_many
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer, fold_bn, fold_bn_fake_quant, fold_bn_fake_quant_layers
from yolo_hw.ops.int_conv2d import OutputCodes, int_conv2d
from yolo_hw.ops.qat_conv_bn import ConvGeometry, WeightFormat, qat_conv_bn
from yolo_hw.ops.sparse_conv2d import Activation, sparse_conv2d
from yolo_hw.ops.sparse_packing import PackedSparse, Pattern, pack_sparse

__all__ = [
    "Activation",
    "BatchNorm",
    "ConvGeometry",
    "FoldLayer",
    "OutputCodes",
    "PackedSparse",
    "Pattern",
    "WeightFormat",
    "batch_norm",
    "cpu_path",
    "fake_quant_lsq",
    "fake_quant_pow2",
    "fake_quant_pow2_many",
    "fake_quant_tqt",
    "fold_bn",
    "fold_bn_fake_quant",
    "fold_bn_fake_quant_layers",
    "int_conv2d",
    "pack_sparse",
    "qat_conv_bn",
    "set_cpu_path",
    "sparse_conv2d",
]
