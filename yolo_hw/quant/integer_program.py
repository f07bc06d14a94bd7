# SPDX-License-Identifier: Apache-2.0
"""Integer programs over variables between 0 and 1, solved by HiGHS.

Reference:
    Huangfu and Hall, "Parallelizing the dual revised simplex method", Mathematical Programming Computation 10, 2018;
    by way of `scipy.optimize.milp`, which is imported when the first program is solved.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STDOUT, STDERR = 1, 2
STOPPED_BY_LIMIT = 1
"""Status of a run that a limit ended."""

Row = Mapping[int, float]
"""Column -> coefficient."""


class Rows:
    """Linear constraints: a row's sum over the variables lies between two numbers."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def between(self, row: Row, low: float, high: float) -> None:
        """Add a constraint."""
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)

    def equal(self, row: Row, value: float) -> None:
        """Add an equation."""
        self.between(row, value, value)

    def at_most(self, row: Row, value: float) -> None:
        """Add an upper bound."""
        self.between(row, -math.inf, value)

    def joined(self, other: Rows) -> Rows:
        """Return both one's constraints."""
        both = Rows()
        both.rows, both.low, both.high = self.rows + other.rows, self.low + other.low, self.high + other.high
        return both


@dataclass(frozen=True, eq=False)
class Answer:
    """What the solver found.

    Attributes:
        x: The variables' values, None if none was found.
        gap: Share by which a better answer could at most lower the costs; 0 unless a time limit struck.
        timed_out: A time limit ended the search.
    """

    x: npt.NDArray[np.float64] | None
    gap: float
    timed_out: bool


def minimise(
    costs: npt.NDArray[np.float64],
    rows: Rows,
    *,
    upper: npt.NDArray[np.float64] | None = None,
    integers: npt.NDArray[np.bool_] | None = None,
    time_limit: float | None = None,
) -> Answer:
    """Find values with the least sum of costs within the constraints.

    Args:
        costs: Per variable.
        rows: Constraints.
        upper: Upper bounds, 0 or 1 each; None: 1.
        integers: Which variables are 0 or 1 and nothing between; None: all.
        time_limit: Seconds.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415  only this needs it; it loads slowly
    from scipy.sparse import csr_array  # noqa: PLC0415

    columns = len(costs)
    where = [(i, column, value) for i, row in enumerate(rows.rows) for column, value in row.items()]
    i, j, values = (np.array(part) for part in zip(*where, strict=True))
    matrix = csr_array((values, (i, j)), shape=(len(rows.rows), columns))
    options = {"mip_rel_gap": 0.0} | ({} if time_limit is None else {"time_limit": time_limit})
    with stdout_to_stderr():
        found = milp(
            costs,
            integrality=np.ones(columns) if integers is None else integers,
            bounds=Bounds(np.zeros(columns), np.ones(columns) if upper is None else upper),
            constraints=LinearConstraint(matrix, rows.low, rows.high),
            options=options,
        )
    return Answer(found.x, float(found.mip_gap or 0.0), found.status == STOPPED_BY_LIMIT)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what compiled code prints to standard output, which belongs to tables and JSON, to standard error meanwhile.

    HiGHS prints a line of debugging there (``transformNewIntegerFeasibleSolution``) whatever its options say. It goes
    through C's buffer, which is flushed at both ends so that nothing crosses over.
    """
    sys.stdout.flush()
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    try:
        saved = os.dup(STDOUT)
    except OSError:  # standard output is closed: nothing can get there
        yield
        return
    try:
        os.dup2(STDERR, STDOUT)
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, STDOUT)
        os.close(saved)
