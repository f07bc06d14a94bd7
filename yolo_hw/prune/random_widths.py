# SPDX-License-Identifier: Apache-2.0
"""Random numbers of channels whose multiply-accumulates lie in a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import FloatArray, IntArray
from yolo_hw.prune.cost import CostModel
from yolo_hw.prune.multiples import Regular, Width

_CHUNK = 256
"""Draws that are priced at once; the stream of draws depends on it."""
_BISECTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Band:
    """What is drawn.

    Attributes:
        share: Multiply-accumulates to keep, of those of the whole network.
        delta: By how much a draw's share may differ.
        max_ratio: Each group loses a share of its units drawn evenly from [0, max_ratio]. None: from [0, t] or, where
            that takes too little, [t - 1, 1], with t such that the median draw has the wanted share.
        max_draws: After so many draws the search gives up.
    """

    share: float = 0.5
    delta: float = 0.05
    max_ratio: float | None = None
    max_draws: int = 100_000

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            PruneError: A number is out of range.
        """
        if not 0 < self.share < 1:
            raise PruneError(f"band: the share of multiply-accumulates to keep must be in (0, 1), got {self.share}")
        if not 0 < self.delta < 1:
            raise PruneError(f"band: delta must be in (0, 1), got {self.delta}")
        if self.max_ratio is not None and not 0 < self.max_ratio <= 1:
            raise PruneError(f"band: max_ratio must be in (0, 1], got {self.max_ratio}")
        if self.max_draws < 1:
            raise PruneError(f"band: max_draws must be at least 1, got {self.max_draws}")

    def __str__(self) -> str:
        return f"{self.share - self.delta:.1%} to {self.share + self.delta:.1%} of the multiply-accumulates"


class RandomWidths:
    """Draws numbers of units for some groups of a network; all others keep theirs."""

    def __init__(self, cost: CostModel, widths: Sequence[Width], regular: Regular) -> None:
        """Tabulate what every number of units is rounded to.

        Args:
            cost: Prices draws.
            widths: What the number of units of each group may become, by the names of `cost`'s groups.
            regular: How numbers become multiples.

        Raises:
            PruneError: See `Width.limits`.
        """
        self.cost = cost
        self.widths = tuple(widths)
        self._columns = np.array([cost.groups.number_of(width.name) for width in widths], np.int64)
        self._units = np.array([width.units for width in widths], np.int64)
        self._rounded = np.zeros((len(widths), int(self._units.max()) + 1), np.int64)
        for row, width in zip(self._rounded, widths, strict=True):
            row[: width.units + 1] = [width.regular_count(count, regular) for count in range(width.units + 1)]
        self.full = int(cost.macs_of(cost.groups.sizes[None])[0])

    def shares(self, counts: IntArray) -> FloatArray:
        """Return [n] the share of the multiply-accumulates that counts [n, groups drawn for] keep."""
        vectors = np.repeat(self.cost.groups.sizes[None], len(counts), axis=0)
        vectors[:, self._columns] = counts
        return np.asarray(self.cost.macs_of(vectors) / self.full, np.float64)

    @property
    def reachable(self) -> tuple[float, float]:
        """The smallest and the largest share there is."""
        ends = self._counts(np.array([1.0, 0.0])[:, None].repeat(len(self.widths), axis=1))
        low, high = self.shares(ends).tolist()
        return low, high

    def draw(self, number: int, band: Band, seed: int) -> tuple[IntArray, FloatArray]:
        """Draw different counts within a band.

        The first counts do not depend on how many are wanted.

        Args:
            number: How many.
            band: What is drawn.
            seed: Of the draws.

        Returns:
            Counts [number, groups] and their shares [number].

        Raises:
            PruneError: There are not so many within `Band.max_draws`; the message says what is reachable.
        """
        low, high = self.reachable
        if low > band.share + band.delta or high < band.share - band.delta:
            raise PruneError(f"random widths: {band} are wanted, these groups reach {low:.1%} to {high:.1%}")
        start, stop = self._range(band, seed)
        stream = np.random.default_rng([seed, 1])
        found: dict[bytes, tuple[IntArray, float]] = {}
        seen = (np.inf, -np.inf)
        for first in range(0, band.max_draws, _CHUNK):
            ratios = stream.uniform(start, stop, (_CHUNK, len(self.widths)))[: band.max_draws - first]
            counts = self._counts(ratios)
            shares = self.shares(counts)
            seen = (min(seen[0], shares.min()), max(seen[1], shares.max()))
            for index in np.flatnonzero(np.abs(shares - band.share) <= band.delta).tolist():
                found.setdefault(counts[index].tobytes(), (counts[index], float(shares[index])))
            if len(found) >= number:
                chosen = list(found.values())[:number]
                return np.stack([count for count, _ in chosen]), np.array([share for _, share in chosen])
        raise PruneError(
            f"random widths: {number} different ones with {band} are wanted, {band.max_draws:,} draws gave "
            f"{len(found)}; the draws had {seen[0]:.1%} to {seen[1]:.1%}, these groups reach {low:.1%} to {high:.1%}; "
            "widen the band, ask for fewer, or lower the multiple"
        )

    def _counts(self, ratios: FloatArray) -> IntArray:
        """Return [n, groups] the rounded counts left without shares [n, groups] of the units."""
        left = self._units - np.floor(self._units * ratios).astype(np.int64)
        return np.asarray(self._rounded[np.arange(len(self.widths)), left], np.int64)

    def _range(self, band: Band, seed: int) -> tuple[float, float]:
        """Return the range of ratios; a draw's share falls as t grows, so the median's t is found by halving."""
        if band.max_ratio is not None:
            return 0.0, band.max_ratio
        pilot = np.random.default_rng([seed, 0]).random((_CHUNK, len(self.widths)))
        few, many = 0.0, 2.0
        for _ in range(_BISECTIONS):
            start, stop = _ends((few + many) / 2)
            median = np.median(self.shares(self._counts(start + (stop - start) * pilot)))
            few, many = ((few + many) / 2, many) if median > band.share else (few, (few + many) / 2)
        return _ends(many)


def _ends(t: float) -> tuple[float, float]:
    return max(t - 1, 0.0), min(t, 1.0)
