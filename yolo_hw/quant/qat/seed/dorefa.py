# SPDX-License-Identifier: Apache-2.0
"""DoReFa: weights on a grid over the range of their hyperbolic tangents, activations on a bounded one.

Reference:
    Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016
    (arXiv:1606.06160), sections 2.2 to 2.4.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_BITS, FixedPoint, Overflow
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.quantiser import FracLimits, Grid, Quantiser
from yolo_hw.quant.qat.seed.ranges import no_fraction_bits, round_to_step

REACH = 10.0
"""Activations are bounded to [0, 1] behind a factor of 0.1."""


class DorefaWeights(Quantiser):
    r"""The paper's weights, times the factor they were divided by.

    .. math::
        t = \tanh w, \quad M = \max |t|, \quad n = 2^b - 1, \quad
        y = M \left(\frac 2 n \mathrm{round}\left(n \left(\frac t {2 M} + \frac 1 2\right)\right) - 1\right)

    The paper leaves M away. A batch norm that follows and has seen the quantised weights cannot tell; folded weights
    and layers without a batch norm, such as a detector's last ones, need it. The gradient is straight-through, M a
    constant: :math:`\partial y / \partial w = 1 - t^2`. The grid has no zero, and follows the weights, frozen or not.
    """

    power_of_two = False

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`; M is one number per channel."""
        super().__init__(grid, channels)
        if grid.bits == MAX_BITS:
            raise QuantError(f"dorefa: weights must have at most {MAX_BITS - 1} bits, got {grid.bits}")
        self.levels = FixedPoint(grid.bits, 0, signed=False)

    def set_frac(self, frac: Tensor) -> None:
        """Nothing to set: the weights say where the grid lies."""

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """Refuse, see `Quantiser.frac`."""
        raise no_fraction_bits(ScaleMethod.DOREFA)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        t = torch.tanh(x)
        sizes = t.detach().abs()
        largest = sizes.amax() if self.channels == 1 else sizes.flatten(1).amax(1)
        largest = largest.reshape(-1, *[1] * (x.dim() - 1))
        unit = t / (2 * torch.where(largest > 0, largest, 1)) + 0.5
        codes = fake_quant_pow2(unit * self.levels.hi, self.levels, self.grid.rounding)
        return largest * (codes * (2 / self.levels.hi) - 1)


class DorefaActivations(Quantiser):
    r"""Bounded activations, :math:`y = 10 / n \cdot \mathrm{round}(n \cdot \mathrm{clip}(x / 10, 0, 1))`.

    With n = 2**bits - 1 for tensors that cannot be negative, as in the paper. Others keep their negative values:
    clipped to [-1, 1], with n = 2**(bits - 1) - 1. The bound is a constant, frozen or not.
    """

    power_of_two = False

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(replace(grid, overflow=Overflow.SATURATE_SYMMETRIC), channels)

    def set_frac(self, frac: Tensor) -> None:
        """Nothing to set: the bound is a constant."""

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """Refuse, see `Quantiser.frac`."""
        raise no_fraction_bits(ScaleMethod.DOREFA)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        return round_to_step(x, x.new_tensor([REACH / self.grid.format().hi]), self.grid)
