# SPDX-License-Identifier: Apache-2.0
"""Before pruning by batch-norm scales: how many of them are small enough to go, and why not more.

Network slimming (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017) works on
models trained with a penalty on the scales. On others the smallest scales are not small, and the detector is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import FloatArray
from yolo_hw.prune.choose import eligible_groups
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.importance import IMPORTANCES
from yolo_hw.prune.methods import find_method, scaled_group
from yolo_hw.prune.ranking import Candidate, Scope, rank_units
from yolo_hw.prune.reduce import Reduction
from yolo_hw.prune.scoring import Scorer

NEAR_ZERO = 0.1
"""A scale below this share of the root mean square of all is near zero."""
ENERGY = 1e-3
"""Share of the sum of squares that may go: what is left differs by sqrt(ENERGY), 3 %, in size."""
SPARSE = 0.2
"""From this share of scales near zero on a model counts as trained for sparsity."""
KNEE_FACTOR = 1.5
"""Two neighbours in the sorted scales that differ by less than this factor are no gap."""


@dataclass(frozen=True, eq=False)
class Preflight:
    """What the scales of a model say about pruning by them, ranked over the network.

    Shares are of all units of the eligible groups; the scale of a unit that several layers make is the largest.

    Attributes:
        scales: |gamma| of every unit, ascending.
        safe: Largest share that is safe: the squares of the scales that go add up to at most `ENERGY` of the sum of all
            squares, and every group keeps a unit.
        ceiling: Largest share at which every group keeps a unit.
        first_to_vanish: The group that would be empty beyond it.
        near_zero: Share of scales below `NEAR_ZERO` times their root mean square.
        knee: Share below the widest gap between neighbours, as a ratio; None without a gap of `KNEE_FACTOR` among the
            middle nine tenths of the scales.
    """

    scales: FloatArray
    safe: float
    ceiling: float
    first_to_vanish: str
    near_zero: float
    knee: float | None

    @property
    def sparse(self) -> bool:
        """Whether the scales look like those of a model trained for sparsity."""
        return self.near_zero >= SPARSE

    @property
    def threshold(self) -> float:
        """The smallest scale that stays if the safe share goes."""
        return float(self.scales[self.units(self.safe)])

    def units(self, ratio: float) -> int:
        """Return how many units a ratio removes."""
        return int((np.arange(1, len(self.scales) + 1) / len(self.scales) <= ratio).sum())

    def energy(self, ratio: float) -> float:
        """Return the share of the sum of squares that the smallest `ratio` of the scales holds."""
        squares = np.square(self.scales)
        return float(squares[: self.units(ratio)].sum() / squares.sum())

    def verdict(self) -> str:
        """Return in words what can be pruned."""
        limit = (
            f"beyond it {self.first_to_vanish} would lose all its channels"
            if self.safe == self.ceiling
            else f"beyond it more than {ENERGY:.1%} of the squares of the scales would go"
        )
        safe = f"safe up to {self.safe:.1%}, {limit}"
        if self.sparse:
            knee = "" if self.knee is None else f"; the widest gap is at {self.knee:.1%}"
            return f"{safe}; {self.near_zero:.1%} of the scales are near zero{knee}"
        return (
            f"not sparse enough: {1 - self.near_zero:.1%} of the scales are above {NEAR_ZERO:g} of their root mean "
            f"square; {safe}; train with sparsity first"
        )

    def warning(self, ratio: float) -> str | None:
        """Return what to say before a ratio is pruned, or None if it is safe."""
        if ratio <= self.safe:
            return None
        loss = f"the scales that go hold {self.energy(ratio):.1%} of the sum of squares"
        empty = f", {self.first_to_vanish} would lose all its channels" if ratio > self.ceiling else ""
        return f"a ratio of {ratio:.1%} is not safe: {loss}{empty}; {self.verdict()}"


def check_scales(groups: ChannelGroups, state: Mapping[str, Tensor], config: PruneConfig | None = None) -> Preflight:
    """Look at the batch-norm scales that a method ranks.

    Args:
        groups: All groups of the model.
        state: Its state dict.
        config: The method, whose rule says which groups it leaves alone, include and exclude.

    Raises:
        PruneError: No eligible group has a batch norm, a scale is no finite number, all are zero; or see
            `eligible_groups`.
    """
    config = config or PruneConfig()
    _, eligible = eligible_groups(groups, config, find_method(config.method).rule)
    scaled = [group for group in eligible if scaled_group(group) is None]
    if not scaled:
        raise PruneError("pre-flight: no eligible group has a batch norm, there are no scales to look at")
    scorer = Scorer(state, IMPORTANCES["bn"])
    return judge_scales({group.name: scorer.group(group, Reduction.MAX) for group in scaled})


def judge_scales(scales: Mapping[str, FloatArray]) -> Preflight:
    """Return what the scales of some groups say.

    Args:
        scales: Group -> |gamma| of each unit.

    Raises:
        PruneError: There is no group, a scale is no finite number, or all are zero.
    """
    candidates = [Candidate(name, values) for name, values in scales.items()]
    ranking = rank_units(candidates, Scope.GLOBAL)
    ordered = np.sort(np.concatenate([candidate.scores for candidate in candidates]))
    total, squares = len(ordered), np.square(ordered)
    if not squares.any():
        raise PruneError(f"pre-flight: all {total} scales are zero; the model computes constants")
    last = [int(np.flatnonzero(ranking.owner == number)[-1]) for number in range(len(candidates))]
    ceiling = min(last)  # units that go before the first group's last one: equal scales are ranked, not all at once
    within = int((np.cumsum(squares) <= ENERGY * squares.sum()).sum())
    return Preflight(
        scales=ordered,
        safe=min(within, ceiling) / total,
        ceiling=ceiling / total,
        first_to_vanish=candidates[last.index(ceiling)].name,
        near_zero=float(np.mean(ordered < NEAR_ZERO * np.sqrt(squares.mean()))),
        knee=_knee(ordered),
    )


def _knee(ordered: FloatArray) -> float | None:
    """Return the share below the widest gap by factor; below a millionth of the largest all scales are alike."""
    edge = len(ordered) // 20
    logs = np.log(np.maximum(ordered, ordered[-1] * 1e-6))
    gaps = np.diff(logs[edge : len(ordered) - edge])
    if not len(gaps) or gaps.max() < np.log(KNEE_FACTOR):
        return None
    return (edge + int(np.argmax(gaps)) + 1) / len(ordered)
