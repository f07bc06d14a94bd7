# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.cpu_path import cpu_path, set_cpu_path
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2
from yolo_hw.ops.sparse_conv2d import Activation, sparse_conv2d
from yolo_hw.ops.sparse_packing import PackedSparse, Pattern, pack_sparse

__all__ = [
    "Activation",
    "PackedSparse",
    "Pattern",
    "cpu_path",
    "fake_quant_pow2",
    "pack_sparse",
    "set_cpu_path",
    "sparse_conv2d",
]
