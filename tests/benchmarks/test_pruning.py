# SPDX-License-Identifier: Apache-2.0
"""Pruned weights: exactly the asked share of blocks is zero, the smallest ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pruning import BLOCKS, prune


@pytest.mark.parametrize("pattern", BLOCKS)
@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (24, 10, 1, 1)])
def test_share_of_blocks(pattern, shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = prune(weight, pattern, 0.75)
    rows, columns = BLOCKS[pattern]
    zero, kept = [], []
    for k in range(0, shape[0], rows):
        for c in range(0, shape[1], columns):
            for r, s in np.ndindex(shape[2:]):
                block = (slice(k, k + rows), slice(c, c + columns), r, s)
                energy = float((weight[block] ** 2).sum(dtype=np.float64))
                (zero if not found[block].any() else kept).append(energy)
                assert not found[block].any() or (found[block] == weight[block]).all()
    assert len(zero) == round(0.75 * (len(zero) + len(kept)))
    assert max(zero) <= min(kept)
