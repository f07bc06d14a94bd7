# SPDX-License-Identifier: Apache-2.0
"""From ranges to steps: the nearest power of two, and rounding to a step that is none."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.quantiser import Grid


def nearest_power(largest: Tensor) -> Tensor:
    r"""Return the exponent of the power of two nearest to a range, on a linear scale; the lower one of a tie.

    .. math:: k = \lfloor \log_2 A \rfloor + [A > 1.5 \cdot 2^{\lfloor \log_2 A \rfloor}]

    A range just below the switch is cut by a third.

    Args:
        largest: [...] A, floating point and positive; of zero and below the result has no meaning.

    Returns:
        [...] k, int32; exact.
    """
    mantissa, exponent = torch.frexp(largest)  # in [0.5, 1) * 2**exponent
    return (exponent - (mantissa <= 0.75).int()).int()


def frac_of_range(largest: Tensor, grid: Grid) -> Tensor:
    """Return the fraction bits, int32, with which codes reach the power nearest to `largest` [...]; bits - 1 of 0."""
    frac = torch.where(largest > 0, grid.magnitude_bits - nearest_power(largest), grid.bits - 1)
    return frac.clamp(-MAX_ABS_FRAC, MAX_ABS_FRAC).int()


def round_to_step(x: Tensor, step: Tensor, grid: Grid) -> Tensor:
    r"""Round to a grid with any step s: :math:`y = s \cdot \mathrm{overflow}(\mathrm{round}(x / s))`, straight-through.

    Args:
        x: [...].
        step: [1], or [x.shape[0]]: one per channel; positive, no gradient.
        grid: Word length, sign, rounding, overflow.

    Returns:
        [...] of the dtype of `x`.
    """
    step = step.to(x).reshape(-1, *[1] * (x.dim() - 1))
    return fake_quant_pow2(x / step, grid.format(), grid.rounding, grid.overflow) * step


def no_fraction_bits(method: ScaleMethod) -> QuantError:
    """Return the refusal of a method whose steps are no powers of two."""
    return QuantError(f"{method.value}: the step is no power of two, so there are no fraction bits")
