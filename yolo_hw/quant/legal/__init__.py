# SPDX-License-Identifier: Apache-2.0
"""Fraction bits that a target can use, with the least loss."""

from yolo_hw.quant.legal.legalise import Legaliser, cast_image
from yolo_hw.quant.legal.report import LegalReport

__all__ = ["LegalReport", "Legaliser", "cast_image"]
