# SPDX-License-Identifier: Apache-2.0
"""Weights with zeros in a pattern: the smallest of a layer's weights go, one by one or in blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

BLOCKS: Mapping[str, tuple[int, int]] = {"unstructured": (1, 1), "16x1": (16, 1), "16x4": (16, 4)}
"""Pattern -> output channels x input channels of a block at one kernel position."""


def prune(weight: FloatArray, pattern: str, sparsity: float) -> FloatArray:
    """Return a copy of `weight` with a share of its blocks zeroed, those of the smallest sum of squares.

    Args:
        weight: [K, C, R, S].
        pattern: A key of `BLOCKS`; a block at the end of K or C may be smaller.
        sparsity: Share of the blocks, in [0, 1).

    Returns:
        [K, C, R, S].
    """
    rows, columns = BLOCKS[pattern]
    k, c = weight.shape[:2]
    k_edges, c_edges = np.arange(0, k, rows), np.arange(0, c, columns)
    energy = np.add.reduceat(np.add.reduceat(weight.astype(np.float64) ** 2, k_edges, 0), c_edges, 1)
    kept = np.ones(energy.size, bool)
    kept[np.argsort(energy, axis=None, kind="stable")[: round(sparsity * energy.size)]] = False
    mask = kept.reshape(energy.shape).repeat(rows, 0)[:k].repeat(columns, 1)[:, :c]
    return weight * mask
