# SPDX-License-Identifier: Apache-2.0
"""Random choices of channels for tests of surgery."""

from __future__ import annotations

import numpy as np

from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.plan import PAD, PrunePlan


def random_plan(groups: ChannelGroups, seed: int, multiple: int = 1) -> PrunePlan:
    """Keep a random number of random units of every group, filled up with zero channels to a multiple."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in groups.prunable:
        count = int(rng.integers(1, group.size + 1))
        units = np.sort(rng.choice(group.size, count, replace=False))
        kept[group.name] = np.concatenate([units, np.full(-count % multiple, PAD)]).astype(np.int64)
    return PrunePlan(groups, kept)
