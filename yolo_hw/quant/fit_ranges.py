# SPDX-License-Identifier: Apache-2.0
r"""Whole tensors by real factors, so that power-of-two steps fit them.

A tensor has one best step, and the power of two next to it is up to half an octave away. Where everything around a
tensor is homogeneous it can be multiplied by any factor instead, and what reads it divided by the same: the weights
are rounded only afterwards, so no hardware ever sees the factor. Of the factors :math:`2^{j/8}` in [1, 2) each set of
tensors that must be scaled together gets the one with the least noise,

.. math:: \sum_t \frac{E[(x - \hat x)^2]}{E[x^2]}

over its tensors t, at the step that the observer would choose. The noise comes from a histogram of magnitudes:
:math:`\min(\Delta^2 / 12, x^2)` inside the range, the squared distance to its end outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow
from yolo_hw.quant.config import Observer, QuantConfig
from yolo_hw.quant.equalise import Factors, scale_groups
from yolo_hw.quant.execute import NodeResult
from yolo_hw.quant.folded import Float64Array, FoldedGraph
from yolo_hw.quant.groups import FormatGroup, format_groups

FACTORS = 8
"""Factors per octave; the step is then at most a 16th of an octave from the best one."""
OCTAVES = 6
"""Ranges tried, from one that clips nothing downwards."""
MANTISSA_BITS = 5
"""A cell of a histogram is an exponent and so many bits of the mantissa: 32 cells per octave, 3 percent each."""
_DROPPED_BITS = 23 - MANTISSA_BITS
_CELLS = 1 << (8 + MANTISSA_BITS)


class Magnitudes:
    """How often each magnitude occurs, in cells of equal relative width; needs no range beforehand.

    Attributes:
        counts: Values of every cell; the first one holds zeros and what is below 2**-131.
        largest: The largest magnitude.
    """

    def __init__(self) -> None:
        """Start without values."""
        self.counts = np.zeros(_CELLS)
        self.largest = 0.0

    def update(self, x: Tensor) -> None:
        """Take in one more batch, float32 of any shape."""
        magnitudes = x.abs().contiguous()
        self.largest = max(self.largest, float(magnitudes.max()))
        cells = magnitudes.view(torch.int32).flatten() >> _DROPPED_BITS
        self.counts += torch.bincount(cells, minlength=_CELLS).numpy()

    def summary(self) -> tuple[Float64Array, Float64Array]:
        """Return the middles of the cells that occur and their shares; zeros are left out."""
        found = np.flatnonzero(self.counts[1:]) + 1
        bits = (found << _DROPPED_BITS) + (1 << (_DROPPED_BITS - 1))
        return bits.astype(np.int32).view(np.float32).astype(np.float64), self.counts[found] / self.counts.sum()


def range_factors(graph: FoldedGraph, results: Iterable[NodeResult], config: QuantConfig) -> Factors:
    """Return the factor of every tensor that may be scaled, the same for all channels and all tensors of a group.

    Args:
        graph: The folded network.
        results: Its values on the calibration images, node by node and batch by batch.
        config: Word lengths, observer and overflow.
    """
    formats = {name: group for group in format_groups(graph, config) for name in group.producers}
    seen: dict[str, Magnitudes] = {}
    for node, _, out in results:
        if not node.moves:
            seen.setdefault(formats[node.name].producers[0], Magnitudes()).update(out)
    factors: Factors = {}
    width = {node.name: node.shape.c for node in graph.nodes}
    for group in scale_groups(graph):
        parts = {formats[name].producers[0]: formats[name] for name in group.members if name in formats}
        noise = sum((_noise(seen[name], part, config) for name, part in parts.items()), np.zeros(FACTORS))
        factor = np.full(width[group.members[0]], 2.0 ** (noise.argmin() / FACTORS))
        factors |= dict.fromkeys(group.members, factor)
    return factors


def _noise(values: Magnitudes, group: FormatGroup, config: QuantConfig) -> Float64Array:
    """Return the noise of a format group against its signal under every factor, [FACTORS]."""
    magnitude, share = values.summary()
    if not len(magnitude):
        return np.zeros(FACTORS)
    fmt = FixedPoint(group.bits, 0, group.signed)
    coarsest = np.floor(np.log2(fmt.hi / values.largest)) - 1
    step = 2.0 ** -(coarsest + np.arange(OCTAVES + 1)[:, None] + np.arange(FACTORS) / FACTORS)  # [octave, factor]
    over = np.maximum(magnitude - fmt.hi * step[..., None], 0)
    inside = np.minimum(step[..., None] ** 2 / 12, magnitude**2)
    noise = (np.where(over > step[..., None] / 2, over**2, inside) * share).sum(-1)
    limit = _least_range(values, config)
    if limit is None:
        chosen = noise.min(0)
    else:  # the finest step with this range
        octave = (((fmt.hi + 0.5) * step) >= limit).sum(0) - 1
        chosen = noise[octave, np.arange(FACTORS)]
    return np.asarray(chosen / (magnitude**2 * share).sum(), np.float64)


def _least_range(values: Magnitudes, config: QuantConfig) -> float | None:
    """Return the magnitude that the observer wants inside the range, None if it weighs errors."""
    if config.a_observer is Observer.MAX or config.overflow is Overflow.WRAP:
        return values.largest
    if config.a_observer is Observer.PERCENTILE:
        below = values.counts.cumsum() / values.counts.sum()
        end = int(np.flatnonzero(below >= config.percentile / 100)[0]) + 1 << _DROPPED_BITS
        return min(float(np.int32(end).view(np.float32)), values.largest)
    return None
