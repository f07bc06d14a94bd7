# SPDX-License-Identifier: Apache-2.0
"""Steps from ranges: a moving average of those of activations, those of weights as they are.

The scheme of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3.1, with symmetric ranges, and a power of two of the range for shifts instead of
multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.quantiser import FracLimits, RangeQuantiser, exact_exp2, limited
from yolo_hw.quant.qat.seed.ranges import frac_of_range, no_fraction_bits, round_to_step


class GoogleQuantiser(RangeQuantiser):
    r"""The range is rounded to the nearest power of two, :math:`s = 2^{k - b + signed}` with k of `nearest_power`.

    Calibration starts from the range of its first batch and moves on with the others, as training does.
    """

    observes = True

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`: the range that is a power of two itself."""
        self.largest.copy_(exact_exp2(self.grid.magnitude_bits - frac))

    def observe(self, x: Tensor, first: bool) -> None:
        """See `Quantiser.observe`."""
        self._follow(x, 1.0 if first else self.momentum)

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.frac`."""
        return limited(frac_of_range(self.largest, self.grid), limits)


class GoogleFloatQuantiser(GoogleQuantiser):
    r"""The largest code stands for the range: :math:`s = A / (2^{b - signed} - 1)`, so that nothing is clipped."""

    power_of_two = False

    def set_frac(self, frac: Tensor) -> None:
        """See `Quantiser.set_frac`: the range with the same step."""
        self.largest.copy_(self.grid.format().hi * exact_exp2(-frac))

    def frac(self, limits: FracLimits | None = None) -> Tensor:
        """Refuse, see `Quantiser.frac`."""
        raise no_fraction_bits(ScaleMethod.GOOGLE_FLOAT)

    def forward(self, x: Tensor, limits: FracLimits | None = None) -> Tensor:
        """See `Quantiser.forward`; in training the range follows `x`."""
        if self.training and not self.rests:
            self._follow(x, self.momentum)
        largest = torch.where(self.largest > 0, self.largest, 1)  # any step keeps zeros
        return round_to_step(x, largest / self.grid.format().hi, self.grid)
