# SPDX-License-Identifier: Apache-2.0
"""From the scores of the layers of a group to one score per unit, and scales on which scores can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from torch import Tensor

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import FloatArray, IntArray


class Reduction(Enum):
    """How the scores of a unit's channels become one."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    FIRST = "first"
    """The first channel in order of members and positions decides for all."""


class Normalisation(Enum):
    """What the scores of one layer, or one group, are divided by or moved to.

    All-zero scores stay zero except under `SOFTMAX`, where they share 1 like all constant scores. Constant other scores
    become 1 (`MEAN`, `MAX`), 1/n (`SUM`), 1/sqrt(n) (`L2`), 0 (`STANDARD`), 0.5 (`LINEAR`).
    """

    NONE = "none"
    MEAN = "mean"
    """Divided by the mean magnitude."""
    MAX = "max"
    """Divided by the largest magnitude."""
    SUM = "sum"
    """Divided by the sum of magnitudes."""
    L2 = "l2"
    """Divided by the root of the sum of squares."""
    STANDARD = "standard"
    """Zero mean and unit variance; also called gaussian."""
    LINEAR = "linear"
    """Moved to 0..1."""
    SOFTMAX = "softmax"

    @classmethod
    def _missing_(cls, value: object) -> Normalisation | None:
        return cls.STANDARD if value == "gaussian" else None


def normalise(scores: Tensor | FloatArray, how: Normalisation) -> FloatArray:
    """Return scores on another scale, in the same order.

    Args:
        scores: [n], finite.
        how: The scale.

    Returns:
        float64 [n]. Equal scores stay equal.
    """
    values: FloatArray = np.asarray(scores, np.float64)
    if how is Normalisation.NONE:
        return values
    if how is Normalisation.SOFTMAX:
        powers = np.exp(values - values.max())
        return np.asarray(powers / powers.sum())
    peak = np.abs(values).max()
    if peak == 0:
        return np.zeros_like(values)
    values = values / peak  # from here on no square or sum leaves the range of a double
    if how in (Normalisation.STANDARD, Normalisation.LINEAR):
        return _span(values, how)
    magnitudes = np.abs(values)
    divisor = {
        Normalisation.MEAN: magnitudes.mean(),
        Normalisation.MAX: 1.0,
        Normalisation.SUM: magnitudes.sum(),
        Normalisation.L2: np.sqrt(np.square(magnitudes).sum()),
    }[how]
    return np.asarray(values / divisor)


def _span(values: FloatArray, how: Normalisation) -> FloatArray:
    """Return the scales that take the differences of scores only; `values` lie in -1..1."""
    lo, hi = values.min(), values.max()
    if lo == hi:  # the computed variance of equal numbers need not be zero
        return np.full_like(values, 0.0 if how is Normalisation.STANDARD else 0.5)
    linear = (values - lo) / (hi - lo)
    return np.asarray((linear - linear.mean()) / linear.std() if how is Normalisation.STANDARD else linear)


def reduce_scores(members: Sequence[tuple[Tensor | FloatArray, IntArray]], units: int, how: Reduction) -> FloatArray:
    """Return one score per unit.

    Args:
        members: For each layer of the group its scores [K] and the unit of each of its channels [K], -1 for channels
            that belong to no unit of the group. A unit may have several channels in one layer.
        units: Number of units.
        how: How the scores of a unit's channels, over all layers, become one.

    Returns:
        float64 [units].

    Raises:
        PruneError: A unit has no channel, or a channel has a unit that does not exist.
    """
    scores = np.concatenate([np.asarray(scores, np.float64) for scores, _ in members] or [np.zeros(0)])
    unit = np.concatenate([np.asarray(of, np.int64) for _, of in members] or [np.zeros(0, np.int64)])
    if len(unit) != len(scores):
        raise PruneError(f"scores: every score needs a unit, there are {len(scores)} scores and {len(unit)} units")
    if len(unit) and not -1 <= unit.min() <= unit.max() < units:
        raise PruneError(f"scores: units must be -1..{units - 1}, found {unit.min()}..{unit.max()}")
    scores, unit = scores[unit >= 0], unit[unit >= 0]
    channels = np.bincount(unit, minlength=units)
    if not channels.all():
        raise PruneError(f"scores: unit {int(channels.argmin())} of {units} has no channel with a score")
    if how is Reduction.FIRST:
        return scores[np.unique(unit, return_index=True)[1]]
    if how is Reduction.MAX:
        largest = np.full(units, -np.inf)
        np.maximum.at(largest, unit, scores)
        return largest
    sums = np.bincount(unit, scores, units).astype(np.float64)
    return sums if how is Reduction.SUM else np.asarray(sums / channels)
