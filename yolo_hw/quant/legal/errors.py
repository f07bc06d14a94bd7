# SPDX-License-Identifier: Apache-2.0
"""What each number of fraction bits would cost: measured on the float network, once, before anything is solved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from yolo_hw.fixedpoint import MAX_ABS_FRAC, FixedPoint
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.execute import NodeResult
from yolo_hw.quant.folded import Float64Array, FoldedConv
from yolo_hw.quant.layer_statistics import decibels

COARSER, FINER = 12, 6
"""How far from an observer's choice fraction bits are looked for."""

MAX_SAMPLES = 1 << 16
"""Values of a tensor that are judged per batch, evenly spaced; a mean over so many is known to a few thousandths."""

STEP_PENALTY = 1e-12
"""Relative noise that each step away from the observer's choice counts at least, so that nothing moves without need."""


class FracErrors:
    """Squared error of one group of tensors, or of one table's argument, under each number of fraction bits."""

    def __init__(self, wanted: FixedPoint, config: QuantConfig) -> None:
        """Start at the observer's choice `wanted`."""
        self.wanted = wanted
        self.config = config
        fracs = range(wanted.frac - COARSER, wanted.frac + FINER + 1)
        self.formats = {frac: replace(wanted, frac=frac) for frac in fracs if abs(frac) <= MAX_ABS_FRAC}
        self.squared = dict.fromkeys(self.formats, 0.0)
        self.signal = 0.0

    def update(self, x: Tensor, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Take in one batch: the error is that of ``function(round(x))``."""
        flat = x.reshape(-1)
        flat = flat[:: (flat.numel() // MAX_SAMPLES) | 1]
        reference = function(flat).double()
        self.signal += float((reference**2).sum())
        for frac, fmt in self.formats.items():
            rounded = fake_quant_pow2(flat, fmt, self.config.rounding, self.config.overflow)
            self.squared[frac] += float(((function(rounded).double() - reference) ** 2).sum())

    def excess(self, frac: int) -> float:
        """Return the noise above that of the observer's choice, relative to the signal.

        A choice that the observer passed over gains nothing, whatever its squared error.
        """
        steps = STEP_PENALTY * abs(frac - self.wanted.frac)
        if self.signal == 0:
            return steps
        return max(self.squared[frac] - self.squared[self.wanted.frac], 0.0) / self.signal + steps

    def sqnr(self, frac: int) -> float:
        """Return the signal-to-noise ratio under `frac` in dB, infinite without noise."""
        return decibels(self.signal, self.squared[frac])


@dataclass
class Power:
    """Mean squares of the float network's tensors.

    Attributes:
        tensors: [C] mean square of every channel of every tensor, the image included.
        sums: Mean square of every convolution's sum, before its activation.
    """

    tensors: dict[str, Float64Array] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def update(self, results: Iterable[NodeResult]) -> Iterable[NodeResult]:
        """Take in results while passing them on; of several batches the mean, weighted alike."""
        seen: dict[str, int] = {}
        for node, pre, out in results:
            n = seen[node.name] = seen.get(node.name, 0) + 1
            found = (out.double() ** 2).mean((0, 2, 3)).numpy()
            before = self.tensors.get(node.name, np.zeros_like(found))
            self.tensors[node.name] = before + (found - before) / n
            if isinstance(node, FoldedConv):
                total = self.sums.get(node.name, 0.0)
                self.sums[node.name] = total + (float((pre.double() ** 2).mean()) - total) / n
            yield NodeResult(node, pre, out)


def image_power(images: Iterable[np.ndarray]) -> Float64Array:
    """Return the mean square [C] of the pixels / 256 of image batches [N, H, W, C]."""
    batches = [torch.from_numpy(batch).double().div(256).square().mean((0, 1, 2)).numpy() for batch in images]
    return np.asarray(np.mean(batches, axis=0), np.float64)
