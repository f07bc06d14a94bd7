# SPDX-License-Identifier: Apache-2.0
r"""Whole tensors by real factors, so that power-of-two steps fit them.

A tensor has one best step, and the power of two next to it is up to half an octave away. Where everything around a
tensor is homogeneous it can be multiplied by any factor instead, and what reads it divided by the same: the weights
are rounded only afterwards, so no hardware ever sees the factor. Of the factors :math:`2^{j/8}` in [1, 2) each set of
tensors that must be scaled together gets the one with the least noise,

.. math:: \sum_t \frac{E[(x - \hat x)^2]}{E[x^2]}

over its tensors t, at the step that the observer would choose. The noise comes from a histogram of magnitudes:
:math:`\min(\Delta^2 / 12, x^2)` inside the range, the squared distance to its end outside. To this comes what other
images are expected to add (`Peaks`): without it a tensor of many bits would fill its range to the last value seen, and
the next image would clip.
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


class Peaks:
    r"""What the largest magnitudes of a tensor's channels will be in images not seen so far.

    Peaks over a threshold (Pickands, 1975) with an exponential tail, channel by channel: above the median :math:`t` of
    the channel's peaks m in the images seen,

    .. math:: P(m > y) = p \, e^{-(y - t) / \beta}

    with p the share of peaks above t and :math:`\beta` their mean distance to it. One more peak, a quarter above t, is
    taken as seen, so that a few images, or equal ones, do not promise that nothing else will come. Channels count one
    by one, because equalisation has made their largest values equal in the images seen, and in these only.
    """

    def __init__(self) -> None:
        """Start without images."""
        self._seen: list[Float64Array] = []

    def update(self, x: Tensor) -> None:
        """Take in one more batch, [N, C, H, W]."""
        self._seen.append(x.abs().amax((2, 3)).double().numpy())

    @property
    def images(self) -> int:
        """How many images were seen."""
        return sum(map(len, self._seen))

    @property
    def largest(self) -> Float64Array:
        """[C] the largest magnitude of every channel."""
        return np.asarray(np.max([batch.max(0) for batch in self._seen], 0))

    def energy(self, limits: Float64Array, overflow: Overflow) -> Float64Array:
        """Return the squared error that one image's peaks beyond all that were seen are expected to cause.

        Args:
            limits: [L] ends of ranges.
            overflow: Of what lies outside: clipped to the end, or wrapped around, which is wrong by the whole range.

        Returns:
            [L], summed over the channels.
        """
        largest = self.largest
        alive = largest > 0
        peaks = np.concatenate(self._seen)[:, alive]
        median = np.median(peaks, 0)
        above = peaks > median
        count = above.sum(0) + 1
        scale = (np.where(above, peaks - median, 0).sum(0) + median / 4) / count
        start = np.maximum(limits[:, None], largest[alive])
        probability = count / (len(peaks) + 1) * np.exp(-(start - median) / scale)
        if overflow is Overflow.WRAP:
            return np.asarray(probability.sum(1) * (2 * limits) ** 2)
        gap = start - limits[:, None]
        return np.asarray((probability * (gap**2 + 2 * gap * scale + 2 * scale**2)).sum(1))


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
    peaks: dict[str, Peaks] = {}
    for node, _, out in results:
        if not node.moves:
            seen.setdefault(formats[node.name].producers[0], Magnitudes()).update(out)
            peaks.setdefault(node.name, Peaks()).update(out)
    factors: Factors = {}
    width = {node.name: node.shape.c for node in graph.nodes}
    for group in scale_groups(graph):
        parts = {formats[name].producers[0]: formats[name] for name in group.members if name in formats}
        noise = sum((_noise(seen[name], peaks, part, config) for name, part in parts.items()), np.zeros(FACTORS))
        factor = np.full(width[group.members[0]], 2.0 ** (noise.argmin() / FACTORS))
        factors |= dict.fromkeys(group.members, factor)
    return factors


def _noise(values: Magnitudes, peaks: dict[str, Peaks], group: FormatGroup, config: QuantConfig) -> Float64Array:
    """Return the noise of a format group against its signal under every factor, [FACTORS]."""
    magnitude, share = values.summary()
    if not len(magnitude):
        return np.zeros(FACTORS)
    fmt = FixedPoint(group.bits, 0, group.signed)
    coarsest = np.floor(np.log2(fmt.hi / values.largest)) - 1
    step = 2.0 ** -(coarsest + np.arange(OCTAVES + 1)[:, None] + np.arange(FACTORS) / FACTORS)  # [octave, factor]
    ends = fmt.hi * step
    over = np.maximum(magnitude - ends[..., None], 0)
    inside = np.minimum(step[..., None] ** 2 / 12, magnitude**2)
    noise = (np.where(over > step[..., None] / 2, over**2, inside) * share).sum(-1)
    fitting = ends + step / 2 >= _least_range(values, config)
    finest = fitting.sum(0) - 1  # octave with this range, by factor
    octaves, columns = np.arange(OCTAVES + 1)[:, None], np.arange(FACTORS)
    chosen = np.where(octaves < finest, np.inf, noise).argmin(0) if _weighs_errors(config) else finest
    ends = ends[chosen, columns]
    beyond = sum(peaks[name].energy(ends, config.overflow) for name in group.producers)
    images = peaks[group.producers[0]].images
    energy = (magnitude**2 * share).sum()
    return np.asarray((noise[chosen, columns] + beyond * images / values.counts.sum()) / energy, np.float64)


def _weighs_errors(config: QuantConfig) -> bool:
    """Whether the observer may choose a step with which values clip that were seen."""
    return config.overflow is not Overflow.WRAP and config.a_observer not in (Observer.MAX, Observer.PERCENTILE)


def _least_range(values: Magnitudes, config: QuantConfig) -> float:
    """Return the magnitude that is inside the coarsest range the observer tries."""
    if config.a_observer is Observer.PERCENTILE and config.overflow is not Overflow.WRAP:
        below = values.counts.cumsum() / values.counts.sum()
        end = int(np.flatnonzero(below >= config.percentile / 100)[0]) + 1 << _DROPPED_BITS
        return min(float(np.int32(end).view(np.float32)), values.largest)
    return values.largest
