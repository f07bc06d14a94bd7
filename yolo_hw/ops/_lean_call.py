# SPDX-License-Identifier: Apache-2.0
"""Calls that cost little beside the kernel of a small tensor: few arguments, few Python frames, few look-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# torch.compile and torch.export, and torch.vmap, must see the operator with its formulas.
is_compiling = torch.compiler.is_compiling
transforms_active = torch._C._are_functorch_transforms_active
is_grad_enabled = torch.is_grad_enabled


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


def unpack_format(packed: int) -> tuple[int, int, int, bool, int, int]:
    """Return number, axis, bits, signed, rounding and overflow of a ``PackedFormat``."""
    signed = bool(packed >> 15 & 1)
    return (packed & 0xFF) - 128, packed >> 32, packed >> 8 & 0x7F, signed, packed >> 16 & 0xFF, packed >> 24 & 0xFF
