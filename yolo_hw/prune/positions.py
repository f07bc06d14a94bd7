# SPDX-License-Identifier: Apache-2.0
"""From the kept units of a plan to the kept positions of one dimension of a tensor."""

from __future__ import annotations

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import BoolArray, IntArray
from yolo_hw.prune.plan import PAD, PrunePlan


def kept_positions(plan: PrunePlan, labels: IntArray) -> IntArray:
    """Return the positions to keep along a dimension, in order, with `PAD` where a zero channel is added.

    Args:
        plan: The choice.
        labels: Channel id of each position.

    Returns:
        int64 positions.

    Raises:
        PruneError: A channel has to be added to a group whose channels do not lie in an order that shows where.
    """
    groups = plan.groups
    index, place = groups.at(labels)
    alive = plan.alive[groups.graph.unit_of[labels]]
    positions = np.arange(len(labels))
    ends: list[IntArray] = []
    for number in np.unique(index).tolist():
        group = groups[groups.name_of(number)]
        added = plan.added(group)
        if added:
            ends.append(_pad_positions(group.name, index == number, place, group.size, added))
    if not ends:
        return positions[alive]
    after = np.concatenate(ends)
    pads = np.full(len(after), PAD, np.int64)
    everything = np.insert(np.where(alive, positions, PAD - 1), after, pads)
    return everything[everything >= PAD]


def _pad_positions(name: str, mine: BoolArray, place: IntArray, size: int, added: int) -> IntArray:
    """Return before which positions the added channels go, one entry for each.

    The channels must lie as ``tile(repeat(units, s), t)``: in each tile the added ones come last.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mine.astype(np.int8), [0]])))
    after: list[IntArray] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        run = place[start:stop]
        repeat = int(np.argmax(run != run[0])) or len(run)
        length = repeat * size
        tiles = len(run) // length
        if len(run) % length or not np.array_equal(run, np.tile(np.repeat(np.arange(size), repeat), tiles)):
            raise PruneError(
                f"{name}: no zero channel can be added to its {size} units, because a layer reads them in another "
                "order; choose narrow='keep' or a multiple that the width meets"
            )
        after.append(np.repeat(start + length * np.arange(1, tiles + 1), repeat * added))
    return np.concatenate(after)
