# SPDX-License-Identifier: Apache-2.0
"""Integer convolution with requantised output; the kernels are ``csrc/{cpu,cuda}/int_conv2d``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops._library import load_library

load_library()

Pair = int | tuple[int, int]
"""Vertical and horizontal value, or one for both."""


@dataclass(frozen=True)
class OutputCodes:
    """From accumulators to output codes, but for the shifts and the table (docs/numerics.md, section 3).

    Attributes:
        code: Format of the code before table or clamp. Without a table it has at most 8 bits.
        clamp: Smallest and largest output code; the format's where None. Not used with a table.
        mul_pos: Factor of accumulators >= 0, in [-32767, 32767].
        mul_neg: Factor of accumulators < 0.
        shift_neg: Added to the shift of accumulators < 0.
        rounding: Rule of the right shift.
        overflow: What happens to codes outside of the format.
    """

    code: FixedPoint
    clamp: tuple[int, int] | None = None
    mul_pos: int = 1
    mul_neg: int = 1
    shift_neg: int = 0
    rounding: Rounding = Rounding.HALF_UP
    overflow: Overflow = Overflow.SATURATE

    def numbers(self) -> list[int]:
        """Return what the operator takes as ``requant``."""
        code = self.code
        low, high = self.clamp or (code.lo, code.hi)
        modes = [self.rounding.number, self.overflow.number]
        return [self.mul_pos, self.mul_neg, self.shift_neg, code.lo, code.hi, code.bits, low, high, *modes]


def int_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor,
    output: OutputCodes,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    table: Tensor | None = None,
) -> Tensor:
    r"""Convolve 8-bit codes with 8-bit weights in 32-bit accumulators and requantise, in one pass.

    .. math::
        a_k = b_k + \sum w_k \, x \qquad
        y_k = \mathrm{act}(\mathrm{overflow}(\mathrm{round}(a_k \, m_\pm \, 2^{-(s_k + s_\pm)})))

    with act a clamp or a table. Padding has code 0. Accumulators wrap at 32 bits; a checked integer graph proves that
    they never do. The result is the same on every device and for every layout, bit for bit. There is no gradient.

    Args:
        x: [N, C, H, W], uint8 or int8. The channels-last layout is read as it is, others are copied.
        weight: [K, C / groups, R, S], int8; channels-last is read as it is.
        bias: [K], int32.
        shift: [K], int32, in [-16, 47], with ``shift_neg``, too. The values are checked on the CPU only.
        output: The rest of the requantisation.
        stride: Distance of neighbouring windows.
        padding: Rows above and below, columns left and right of the map.
        dilation: Distance of neighbouring taps.
        groups: Groups of channels; C for a depthwise convolution.
        table: [2 ** output.code.bits], int8, uint8 or int16: output code per code, lowest first.

    Returns:
        [N, K, Ho, Wo], channels-last; the dtype of `table`, without one int8 if ``output.code`` is signed, else uint8.

    Raises:
        RuntimeError: An argument is not as above; the message names it.
    """
    if table is None:
        table = torch.empty(0, dtype=torch.int8, device=x.device)
    pairs = [_pair(value) for value in (stride, padding, dilation)]
    y: Tensor = torch.ops.yolo_hw.int_conv2d(x, weight, bias, shift, *pairs, groups, output.numbers(), table)
    return y


def _pair(value: Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _fake(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    stride, padding, dilation, _, requant, table = rest
    size = [
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    dtype = table.dtype if table.numel() else torch.int8 if requant[3] < 0 else torch.uint8
    shape = (x.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


torch.library.register_fake("yolo_hw::int_conv2d", _fake)
