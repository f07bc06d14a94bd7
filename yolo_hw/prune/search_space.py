# SPDX-License-Identifier: Apache-2.0
"""What a search chooses from: the eligible groups of a model with ranked units, of which it sets the numbers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.choose import eligible_groups, follower_scores, make_candidate
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.importance import find_importance
from yolo_hw.prune.methods import any_group
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.scoring import Scorer, Statistics


class SearchSpace:
    """Ranked groups of a model.

    Attributes:
        groups: All groups.
        ranked: The eligible ones with their scores and the numbers of units allowed.
        dead_bias: What becomes of the constants of pruned channels.
    """

    def __init__(self, model: Darknet, config: PruneConfig, statistics: Statistics | None = None) -> None:
        """Score the units, by the L1 norms of filters and the mean over joined layers unless the config says otherwise.

        Args:
            model: The trained model.
            config: Include, exclude, criterion, multiples, the fewest units.
            statistics: What the criterion needs beyond the weights.

        Raises:
            PruneError: See `eligible_groups`, `find_importance` and `Width.limits`.
        """
        state = {key: value.detach() for key, value in model.state_dict().items()}
        importance = "l1" if config.importance is None else config.importance
        criterion = find_importance(importance, config.seed) if isinstance(importance, str) else importance
        scorer = Scorer(state, criterion, config.normalisation or Normalisation.NONE, statistics)
        reduction = config.reduction or Reduction.MEAN
        self.groups, eligible = eligible_groups(darknet_groups(model), config, any_group)
        self.ranked = [make_candidate(self.groups, g, config, scorer.group(g, reduction)) for g in eligible]
        self.dead_bias = config.dead_bias or DeadBias.TRANSFER
        self._scores = {c.name: np.asarray(c.scores, np.float64) for c in self.ranked}
        self._scores |= follower_scores(self.groups, state)

    def plan(self, counts: Mapping[str, int]) -> PrunePlan:
        """Return the plan that keeps the best units of some groups, and all of the others."""
        kept = {c.name: c.keep(counts[c.name]) for c in self.ranked if c.name in counts}
        return PrunePlan(self.groups, kept, scores=self._scores)

    def identity(self) -> tuple[object, ...]:
        """Return what decides which units a number of units means, but for the model's tensors."""
        order = {c.name: (c.width, np.argsort(-c.scores, kind="stable").tolist()) for c in self.ranked}
        return (order, self.dead_bias.value)


def refuse_options(config: PruneConfig, names: Sequence[str], search: str, why: str) -> None:
    """Raise a PruneError if the config gives one of the options `names`, which mean nothing to a search."""
    for name in names:
        if getattr(config, name):
            raise PruneError(f"{search}: {name} has no meaning, {why}")
