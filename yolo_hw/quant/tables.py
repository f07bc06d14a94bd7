# SPDX-License-Identifier: Apache-2.0
"""Activation functions as tables of output codes."""

from __future__ import annotations

import numpy as np
import torch

from yolo_hw.fixedpoint import FixedPoint, dequantise, quantise
from yolo_hw.nn.activations import activate
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.plan import Table

ARITHMETIC = frozenset({"linear", "leaky", "relu", "relu6"})
"""Activations the datapath computes; all others are tables."""


def build_table(function: str, argument: FixedPoint, out: FixedPoint, config: QuantConfig) -> Table:
    """Tabulate ``quantise(f(code * 2**-frac))`` for every code of `argument`, with f evaluated in float64.

    Args:
        function: Darknet's name of the activation.
        argument: Format of the table's argument.
        out: Format of the result.
        config: Rounding and overflow.

    Returns:
        2**argument.bits entries, lowest code first.
    """
    codes = np.arange(argument.lo, argument.hi + 1)
    values = activate(function, torch.from_numpy(dequantise(codes, argument.frac))).numpy()
    return Table(argument, quantise(values, out, config.rounding, config.overflow))
