# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.cpu_path import cpu_path, set_cpu_path
from yolo_hw.ops.fake_quant_learned import fake_quant_lsq, fake_quant_tqt
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2, fake_quant_pow2_many

__all__ = [
    "cpu_path",
    "fake_quant_lsq",
    "fake_quant_pow2",
    "fake_quant_pow2_many",
    "fake_quant_tqt",
    "set_cpu_path",
]
