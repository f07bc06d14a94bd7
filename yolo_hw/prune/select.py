# SPDX-License-Identifier: Apache-2.0
"""Which units stay: by a ratio, by a budget, or by the votes of the layers of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.channels import BoolArray, FloatArray, IntArray
from yolo_hw.prune.multiples import ROUND_UP, Narrow, Regular, Rounding
from yolo_hw.prune.ranking import Candidate, Scope, Selection, rank_units, regular_counts, settle

__all__ = [
    "ROUND_UP",
    "Budget",
    "Candidate",
    "Narrow",
    "Policy",
    "Regular",
    "Rounding",
    "Scope",
    "Selection",
    "select_budget",
    "select_ratio",
    "select_votes",
    "votes_of",
]

Cost = Callable[[Mapping[str, int]], float]
"""Kept counts of all candidates -> what the network then costs."""


class Policy(Enum):
    """Which units stay where the layers of a group disagree."""

    UNION = "union"
    """Those that any layer keeps; no layer loses what it voted for."""
    INTERSECTION = "intersection"
    """Those that all layers keep."""
    AVERAGE = "average"
    """Those that at least half of the layers keep."""


@dataclass(frozen=True)
class Budget:
    """What a pruned network may cost.

    Attributes:
        kind: What is counted, for messages: channels, params, macs, bytes, cycles.
        target: The most it may cost.
        relative: Whether `target` is a share of what the network costs unpruned.
    """

    kind: str
    target: float
    relative: bool = False

    def __post_init__(self) -> None:
        """Check the target.

        Raises:
            PruneError: It is not above 0, or a share is above 1.
        """
        limit = 1.0 if self.relative else float("inf")
        if not 0 < self.target <= limit or self.target == float("inf"):
            bounds = "above 0 and at most 1" if self.relative else "a finite number above 0"
            raise PruneError(f"budget of {self.kind}: the target must be {bounds}, got {self.target}")


def select_ratio(
    candidates: Sequence[Candidate],
    ratio: float | Mapping[str, float],
    scope: Scope = Scope.GLOBAL,
    regular: Regular = ROUND_UP,
) -> Selection:
    """Remove a share of the units.

    Of the n units ranked together ``floor(n * ratio)`` go, exactly, however many scores are equal; then the counts are
    rounded. Of equal scores those of the first candidate and the lowest index stay.

    Args:
        candidates: The groups.
        ratio: In [0, 1); for each group its own under `Scope.LOCAL`.
        scope: What is ranked together.
        regular: How counts become multiples.

    Raises:
        PruneError: A ratio is outside [0, 1) or belongs to no group; or see `rank_units` and `Width.limits`.
    """
    ranking = rank_units(candidates, scope)
    ratios = _ratios([candidate.name for candidate in candidates], ratio, scope)
    # The quotient i/n is rounded as a typed decimal is: where both are one number they are one double.
    gone = ranking.share <= ratios[ranking.owner]
    return settle(candidates, ranking.left(gone), regular)


def select_budget(
    candidates: Sequence[Candidate],
    budget: Budget,
    cost: Cost,
    scope: Scope = Scope.GLOBAL,
    regular: Regular = ROUND_UP,
) -> Selection:
    """Remove as few units as meet a budget.

    Units go in the order of `rank_units`; the counts that `cost` sees are rounded ones, so the result meets the budget
    as it is. If the cost never falls where a count grows, no shorter prefix of the order meets it. About log2(units)
    evaluations.

    Args:
        candidates: The groups.
        budget: What the network may cost.
        cost: See `Cost`; called with the groups' full widths, too, if the budget is relative.
        scope: What is ranked together.
        regular: How counts become multiples.

    Raises:
        PruneError: The budget cannot be met; or see `rank_units` and `Width.limits`.
    """
    ranking = rank_units(candidates, scope)
    target = budget.target
    if budget.relative:
        target *= cost({candidate.name: candidate.units for candidate in candidates})

    def cost_without(gone: int) -> float:
        return cost(regular_counts(candidates, ranking.left(slice(gone)), regular))

    too_few, enough = -1, len(ranking.owner)
    smallest = cost_without(enough)
    if not smallest <= target:
        raise PruneError(
            f"budget of {budget.kind}: at most {target:,.10g} is wanted, the least these groups can reach is "
            f"{smallest:,.10g}; free more layers, or lower the minimum or the multiple"
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if cost_without(middle) <= target:
            enough = middle
        else:
            too_few = middle
    return settle(candidates, ranking.left(slice(enough)), regular)


def select_votes(
    candidates: Sequence[Candidate],
    votes: Mapping[str, BoolArray],
    policy: Policy,
    regular: Regular = ROUND_UP,
) -> Selection:
    """Keep what the layers of each group agree on.

    Args:
        candidates: The groups; rounding adds and removes units by their scores.
        votes: Group -> bool [layers, units], which units each layer would keep.
        policy: What stays where they disagree.
        regular: How counts become multiples.

    Raises:
        PruneError: A group's votes are missing or of another shape; or see `Width.limits`.
    """
    chosen = []
    for candidate in candidates:
        if candidate.name not in votes:
            raise PruneError(f"group '{candidate.name}': has no votes{nearest(candidate.name, votes)}")
        ballots = np.asarray(votes[candidate.name], np.bool_)
        if ballots.ndim != 2 or not len(ballots) or ballots.shape[1] != candidate.units:
            raise PruneError(
                f"group '{candidate.name}': votes must be [layers, {candidate.units}], are {list(ballots.shape)}"
            )
        voices = ballots.sum(0)
        needed = {Policy.UNION: 1, Policy.INTERSECTION: len(ballots), Policy.AVERAGE: len(ballots) / 2}[policy]
        chosen.append(voices >= needed)
    ranked = np.array([units.sum() for units in chosen], np.int64)
    return settle(candidates, ranked, regular, chosen)


def votes_of(kept: Sequence[IntArray], units: int) -> BoolArray:
    """Return the votes [layers, units] of layers that would each keep the units `kept`."""
    votes = np.zeros((len(kept), units), np.bool_)
    for ballot, indices in zip(votes, kept, strict=True):
        ballot[indices[indices >= 0]] = True
    return votes


def _ratios(names: list[str], ratio: float | Mapping[str, float], scope: Scope) -> FloatArray:
    """Return the ratio of each group, float64 [groups]."""
    if isinstance(ratio, Mapping):
        if scope is not Scope.LOCAL:
            raise PruneError(f"ratio: one for each group needs the local scope, this one is {scope.value}")
        for name in [*ratio, *names]:
            if name not in names:
                raise PruneError(f"ratio: there is no group '{name}'{nearest(name, names)}")
            if name not in ratio:
                raise PruneError(f"ratio: group '{name}' has none")
    given = ratio if isinstance(ratio, Mapping) else dict.fromkeys(names, ratio)
    for name, value in given.items():
        if not 0 <= value < 1:
            raise PruneError(f"ratio of group '{name}': must be at least 0 and below 1, got {value}")
    return np.array([given[name] for name in names], np.float64)
