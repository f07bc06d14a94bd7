# SPDX-License-Identifier: Apache-2.0
"""Calls that cost little beside the kernel of a small tensor: few arguments, few Python frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def lean(op: torch._ops.OpOverload[..., Any]) -> Callable[..., Any]:
    """Return what the operator's ``__call__`` calls, without that Python frame; dispatch is the same."""
    return op._op


def pack_format(axis: int, bits: int, signed: bool, rounding: int, overflow: int) -> int:
    """Return a ``PackedFormat`` (csrc/fake_quant_pow2.h) to which its `number` in [-128, 127] is still to be added.

    Args:
        axis: Any 32-bit number.
        bits: In [0, 127].
        signed: Two's complement.
        rounding: In [0, 255].
        overflow: In [0, 127].
    """
    return (axis << 32) + (overflow << 24) + (rounding << 16) + (signed << 15) + (bits << 8) + 128
