# SPDX-License-Identifier: Apache-2.0
"""Channel counts that are multiples of what the hardware computes at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from yolo_hw.errors import PruneError


class Rounding(Enum):
    """Which multiple a count goes to."""

    UP = "up"
    NEAREST = "nearest"
    """A count in the middle goes up."""
    DOWN = "down"


class Narrow(Enum):
    """What becomes of a group whose width does not reach a multiple."""

    ERROR = "error"
    """A group narrower than its multiple is refused."""
    KEEP = "keep"
    """A group narrower than its multiple stays as it is."""
    PAD = "pad"
    """Zero units may be added to any group, up to the next multiple of its width."""


@dataclass(frozen=True)
class Regular:
    """How counts become multiples.

    Attributes:
        rounding: Which multiple a count goes to.
        narrow: What to do where there is none.
    """

    rounding: Rounding = Rounding.UP
    narrow: Narrow = Narrow.ERROR


ROUND_UP = Regular()
"""Up, and no group narrower than its multiple."""


@dataclass(frozen=True)
class Width:
    """What may become of the number of units of one group.

    Attributes:
        name: Of the group, for messages.
        units: Units there are.
        multiple: What the count must be a multiple of.
        minimum: The fewest units to keep.
    """

    name: str
    units: int
    multiple: int = 1
    minimum: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            PruneError: A number is below 1.
        """
        for field in ("units", "multiple", "minimum"):
            if getattr(self, field) < 1:
                raise PruneError(f"group '{self.name}': {field} must be at least 1, got {getattr(self, field)}")

    def limits(self, narrow: Narrow) -> tuple[int, int]:
        """Return the smallest and the largest count allowed.

        Both are multiples, but for a group narrower than its multiple under `Narrow.KEEP`. The largest is the last
        multiple within the width, under `Narrow.PAD` the first that holds it. A minimum above the largest is cut to it.

        Raises:
            PruneError: The group is narrower than its multiple and must not be.
        """
        if self.units < self.multiple and narrow is Narrow.ERROR:
            raise PruneError(
                f"group '{self.name}': {self.units} channels are fewer than the multiple {self.multiple}; "
                "exclude it, keep it whole or pad it"
            )
        if self.units < self.multiple and narrow is Narrow.KEEP:
            return self.units, self.units
        above = _multiple_above(self.units, self.multiple)
        largest = above if narrow is Narrow.PAD else self.units // self.multiple * self.multiple
        return min(_multiple_above(self.minimum, self.multiple), largest), largest

    def regular_count(self, count: int, regular: Regular) -> int:
        """Return the count allowed that `regular` chooses for `count` units; it grows with `count`.

        Args:
            count: 0 up to the number of units.
            regular: How to round.

        Returns:
            Within `limits`; more than the units there are where zero units are to be added.

        Raises:
            PruneError: See `limits`.
        """
        smallest, largest = self.limits(regular.narrow)
        below = count // self.multiple * self.multiple
        above = _multiple_above(count, self.multiple)
        if regular.rounding is Rounding.NEAREST:
            chosen = above if 2 * (count - below) >= self.multiple else below
        else:
            chosen = above if regular.rounding is Rounding.UP else below
        return max(smallest, min(chosen, largest))

    def reason(self, ranked: int, count: int) -> str | None:
        """Return in words why `count` units are kept and not the `ranked` ones of the ranking.

        None if both are the same, the count is a multiple and no zero unit is added.
        """
        narrow = f"narrower than the multiple {self.multiple}"
        if count % self.multiple:
            return f"{narrow}: all {self.units} channels stay"
        added = count - self.units
        padded = f": padded by {added} zero channel{'s' * (added > 1)}" if added > 0 else ""
        if padded and self.units < self.multiple:
            return narrow + padded
        if count == ranked:
            return None
        why = [f"multiple of {self.multiple}"] * (self.multiple > 1)
        if count < ranked:
            why += [f"the largest within {self.units}"] * (self.units - count < self.multiple)
            return f"rounded down from {ranked} to {count} ({', '.join(why)})"
        if ranked >= self.minimum:
            return f"rounded up from {ranked} to {count} ({why[0]}){padded}"
        why += [f"at least {self.minimum}" + " does not fit" * (self.minimum > count)]
        return f"raised from {ranked} to {count} ({', '.join(why)}){padded}"


def _multiple_above(count: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `count`."""
    return -(-count // multiple) * multiple
