# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2
from yolo_hw.ops.int_conv2d import OutputCodes, int_conv2d

__all__ = ["OutputCodes", "fake_quant_pow2", "int_conv2d"]
