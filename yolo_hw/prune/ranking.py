# SPDX-License-Identifier: Apache-2.0
"""Groups with scored units, and the order in which their units would go."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import BoolArray, FloatArray, IntArray
from yolo_hw.prune.multiples import Regular, Width


class Scope(Enum):
    """Which groups' units are ranked together."""

    LOCAL = "local"
    """Each group for itself: all lose the same share."""
    GLOBAL = "global"
    """All."""
    ISOMORPHIC = "isomorphic"
    """Groups of equal `shape_key`; each such class loses the same share.

    Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024.
    """


@dataclass(frozen=True, eq=False)
class Candidate:
    """A group that may lose units.

    Attributes:
        name: Of the group.
        scores: float64 [units], finite; the highest stay.
        multiple: What the kept count must be a multiple of.
        minimum: The fewest units to keep.
        shape_key: Groups with equal keys are ranked together under `Scope.ISOMORPHIC`.
    """

    name: str
    scores: FloatArray
    multiple: int = 1
    minimum: int = 1
    shape_key: Hashable = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            PruneError: Scores are not finite numbers [units], or a number is below 1.
        """
        scores = np.asarray(self.scores, np.float64)
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise PruneError(f"group '{self.name}': scores must be finite numbers [units], got {scores!r:.80}")
        object.__setattr__(self, "scores", scores)
        _ = self.width

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.scores)

    @property
    def width(self) -> Width:
        """What counts are allowed."""
        return Width(self.name, self.units, self.multiple, self.minimum)

    def keep(self, count: int, chosen: BoolArray | None = None) -> IntArray:
        """Return the units that stay if `count` do.

        Args:
            count: Entries of the result, possibly more than there are units.
            chosen: bool [units], units that come before all others.

        Returns:
            int64 [count], ascending: the chosen units, then those with the highest scores, of equal scores those with
            the lowest index; then a -1 for each unit that is missing.
        """
        first = np.zeros(self.units, np.bool_) if chosen is None else chosen
        best_first = np.lexsort((np.arange(self.units), -self.scores, ~first))
        padding = np.full(max(count - self.units, 0), -1)
        return np.concatenate([np.sort(best_first[:count]), padding]).astype(np.int64)


@dataclass(frozen=True)
class Selection:
    """What stays of each group.

    Attributes:
        kept: Group -> int64 indices of the units that stay, ascending, then a -1 for each zero unit to be added.
        reasons: Group -> why its count is not what the ranking alone would keep, for every such group.
    """

    kept: dict[str, IntArray]
    reasons: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Group -> number of units, added ones included."""
        return {name: len(kept) for name, kept in self.kept.items()}


@dataclass(frozen=True)
class Ranking:
    """The units of all candidates in the order in which they would go.

    Those with the lowest scores go first, of equal scores those of the last candidate. Where several classes are ranked
    apart, they take turns such that all have lost about the same share at any time, the last class first.

    Attributes:
        owner: int64 [all units], candidate of each.
        share: float64 [all units], ascending: the share of its class that is gone once this unit is.
    """

    owner: IntArray
    share: FloatArray

    def left(self, gone: BoolArray | slice) -> IntArray:
        """Return how many units each candidate has without those that `gone` picks from the order."""
        candidates = int(self.owner.max()) + 1
        total = np.bincount(self.owner, minlength=candidates)
        return np.asarray(total - np.bincount(self.owner[gone], minlength=candidates), np.int64)


def rank_units(candidates: Sequence[Candidate], scope: Scope) -> Ranking:
    """Return the order in which units would go.

    Args:
        candidates: At least one; no name twice.
        scope: What is ranked together.

    Raises:
        PruneError: There is no candidate, or a name is there twice.
    """
    names = [candidate.name for candidate in candidates]
    if not names:
        raise PruneError("selection: at least one group must be free to lose channels, there is none")
    if len(set(names)) != len(names):
        raise PruneError(f"selection: group '{max(names, key=names.count)}' is there twice")
    classes: dict[Hashable, list[int]] = {}
    for i, candidate in enumerate(candidates):
        key = {Scope.LOCAL: i, Scope.GLOBAL: None, Scope.ISOMORPHIC: candidate.shape_key}[scope]
        classes.setdefault(key, []).append(i)
    owners, shares = [], []
    for members in reversed(classes.values()):
        owner = np.concatenate([np.full(candidates[i].units, i) for i in members])
        scores = np.concatenate([candidates[i].scores for i in members])
        owners.append(owner[np.lexsort((-owner, scores))])
        shares.append(np.arange(1, len(owner) + 1) / len(owner))
    share = np.concatenate(shares)
    order = np.argsort(share, kind="stable")
    return Ranking(np.concatenate(owners)[order].astype(np.int64), share[order])


def regular_counts(candidates: Sequence[Candidate], ranked: IntArray, regular: Regular) -> dict[str, int]:
    """Return the counts that `regular` makes of those the ranking would keep.

    Raises:
        PruneError: See `Width.limits`.
    """
    return {c.name: c.width.regular_count(int(n), regular) for c, n in zip(candidates, ranked, strict=True)}


def settle(
    candidates: Sequence[Candidate],
    ranked: IntArray,
    regular: Regular,
    chosen: Sequence[BoolArray] | None = None,
) -> Selection:
    """Return the units that stay.

    Args:
        candidates: The groups.
        ranked: int64 [candidates], how many units the ranking alone would keep.
        regular: How counts become multiples.
        chosen: For each candidate bool [units] of units that come before all others; None: scores alone decide.

    Raises:
        PruneError: See `Width.limits`.
    """
    counts = regular_counts(candidates, ranked, regular)
    first = chosen if chosen is not None else [None] * len(candidates)
    kept = {c.name: c.keep(counts[c.name], units) for c, units in zip(candidates, first, strict=True)}
    reasons = {c.name: c.width.reason(int(n), counts[c.name]) for c, n in zip(candidates, ranked, strict=True)}
    return Selection(kept, {name: reason for name, reason in reasons.items() if reason is not None})
