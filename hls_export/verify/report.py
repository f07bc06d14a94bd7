# SPDX-License-Identifier: Apache-2.0
"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt


class Status(str, Enum):
    """Outcome of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Difference:
    """The first code in which two implementations differ.

    Attributes:
        layer: The node.
        channel: Position of the code.
        row: Position of the code.
        column: Position of the code.
        expected: The reference's code.
        got: The other one's.
        acc: The reference's accumulator, None for moved codes.
        shift: The output shift of the accumulator.
        count: How many codes of the layer differ.
    """

    layer: str
    channel: int
    row: int
    column: int
    expected: int
    got: int
    acc: int | None
    shift: int | None
    count: int

    def __str__(self) -> str:
        text = (
            f"layer {self.layer} channel {self.channel} row {self.row} column {self.column}: "
            f"expected {self.expected}, got {self.got}"
        )
        if self.acc is not None:
            text += f" (accumulator {self.acc}, shift {self.shift})"
        return f"{text}; {self.count} codes of the layer differ"


def first_difference(
    layer: str,
    expected: npt.NDArray[np.integer[Any]],
    got: npt.NDArray[np.integer[Any]],
    acc: npt.NDArray[np.integer[Any]] | None = None,
    shift: npt.NDArray[np.integer[Any]] | None = None,
) -> Difference | None:
    """Return the first difference of two maps [C, H, W] in memory order, None if they are equal.

    Args:
        layer: Name for the report.
        expected: The reference's codes.
        got: Codes to compare.
        acc: The reference's accumulators.
        shift: [C] or [1] output shifts.
    """
    unequal = expected.astype(np.int64) != got.astype(np.int64)
    if not unequal.any():
        return None
    c, y, x = (int(v) for v in np.unravel_index(int(unequal.argmax()), unequal.shape))
    return Difference(
        layer,
        c,
        y,
        x,
        int(expected[c, y, x]),
        int(got[c, y, x]),
        None if acc is None else int(acc[c, y, x]),
        None if shift is None else int(shift[c if len(shift) > 1 else 0]),
        int(unequal.sum()),
    )


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: The check.
        status: Outcome.
        detail: What was compared, or what is wrong.
    """

    name: str
    status: Status
    detail: str


@dataclass
class VerifyReport:
    """All checks of a verification, in order."""

    results: list[CheckResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(result.status is not Status.FAILED for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        checks = [{"name": r.name, "status": r.status.value, "detail": r.detail} for r in self.results]
        return {"passed": self.passed, "checks": checks}
