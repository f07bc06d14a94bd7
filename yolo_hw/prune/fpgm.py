# SPDX-License-Identifier: Apache-2.0
"""How far each filter of a layer is from all others: pruning by the geometric median.

The filters with the smallest sum of distances lie closest to the geometric median of the layer, so the others can
stand in for them.

Reference:
    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
    equation 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""Filters on one side of a block of distances: 512 KiB of them, which stays in the second-level cache."""

CANCELLED = 1e-6
"""A squared distance below this share of the two squared norms has lost six of sixteen digits in the subtraction."""


def distance_sums(weight: Tensor) -> Tensor:
    """Return, for each filter, the sum of its Euclidean distances to all others.

    ``score[i] = sum_j |w_i - w_j|``, with ``|a - b|^2 = |a|^2 + |b|^2 - 2 a.b`` from one matrix product per block;
    pairs so close that the subtraction cancels are computed directly, so equal filters have distance 0.

    Args:
        weight: [K, ...].

    Returns:
        float64 [K].
    """
    filters = weight.detach().double().flatten(1)
    norms = filters.square().sum(1)
    sums = torch.zeros_like(norms)
    blocks = [slice(i, min(i + BLOCK, len(filters))) for i in range(0, len(filters), BLOCK)]
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            distances = _distances(filters[rows], filters[columns], norms[rows], norms[columns])
            if rows != columns:
                sums[columns] += distances.sum(0)
            sums[rows] += distances.sum(1)
    return sums


def _distances(a: Tensor, b: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Return the Euclidean distances [A, B] of the rows of `a` and `b`, whose squared norms are given."""
    both = norms_a[:, None] + norms_b
    squared = torch.addmm(both, a, b.T, alpha=-2)
    close = squared < CANCELLED * both
    distances = squared.clamp_(min=0).sqrt_()
    if a.data_ptr() == b.data_ptr():
        close.fill_diagonal_(False)
        distances.fill_diagonal_(0)
    if close.any():
        rows, columns = close.any(1).nonzero(), close.any(0).nonzero().T
        direct = torch.cdist(a[rows[:, 0]], b[columns[0]], compute_mode="donot_use_mm_for_euclid_dist")
        distances[rows, columns] = torch.where(close[rows, columns], direct, distances[rows, columns])
    return distances
