# SPDX-License-Identifier: Apache-2.0
"""Operators of the library in torch."""

from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2

__all__ = ["fake_quant_pow2"]
