# SPDX-License-Identifier: Apache-2.0
"""A trained threshold whose nearest power of two clips."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_hw.ops import fake_quant_lsq
from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.quantiser import FracLimits, Grid, Quantiser, exact_exp2, limited, need_saturation
from yolo_hw.quant.qat.seed.cosine import most_similar
from yolo_hw.quant.qat.seed.ranges import frac_of_range

SMALLEST = 2.0**-60
"""Keeps the threshold from zero, where no power of two is the nearest."""


class TpsqQuantiser(Quantiser):
    r"""A trained threshold S; values are clipped to the power of two nearest to it.

    With :math:`S' = 2^k` of `nearest_power` and :math:`m = 2^{b - signed}`,

    .. math::
        s = S' / m, \quad y = s \cdot \mathrm{clip}(r, n, p), \quad r = \mathrm{round}(x / s)

    The gradient is that of clipping to S' and rounding, straight-through, and passes from S' to S as if their ratio
    were a constant:

    .. math::
        \partial y / \partial S = \frac{S'}{S} \cdot \frac 1 m
            (r - x/s \text{ where } n < x/s < p;\; n \text{ below};\; p \text{ above})

    The parameter keeps what an optimiser adds to it, so steps below the next switch of k count. Only its magnitude
    matters: one that an optimiser brings through zero goes on from the other side. In calibration the first batch, or
    the weights, choose the power of two whose rounding is most similar by the cosine.
    """

    observes = True

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(grid, channels)
        need_saturation(grid, ScaleMethod.TPSQ)
        self.threshold = nn.Parameter(torch.ones(channels))

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`: the power of two itself."""
        with torch.no_grad():
            self.threshold.copy_(exact_exp2(self.grid.magnitude_bits - frac))

    def observe(self, x: Tensor, first: bool) -> None:
        """See `Quantiser.observe`."""
        if first:
            self.set_frac(most_similar(x, self.grid, self.channels).to(self.threshold.device))

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        return limited(frac_of_range(self._size().detach(), self.grid), limits)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`."""
        size, grid = self._size(), self.grid
        if self.rests:
            size = size.detach()
        # Up to the last bit of a float, which the operator rounds away, this is the step itself.
        scale = size * (exact_exp2(-self.frac(limits)).to(size) / size.detach())
        rule = (grid.bits, grid.signed, grid.rounding)
        return fake_quant_lsq(x, scale, *rule, overflow=grid.overflow, grad_scale=1.0)

    def _size(self) -> Tensor:
        return self.threshold.abs().clamp_min(SMALLEST)
