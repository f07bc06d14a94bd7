# SPDX-License-Identifier: Apache-2.0
"""The exact solution of a `Problem` by mixed-integer programming.

Every variable has one binary per candidate, of which one is 1; every factor one share per allowed combination, whose
sums over the combinations with a given candidate equal that candidate's binary: the local polytope of a graphical
model. It is tight on trees (Wainwright and Jordan, "Graphical Models, Exponential Families, and Variational Inference",
2008, section 4.1.3); branching settles the cycles that shortcuts and routes make.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from yolo_hw.errors import QuantError
from yolo_hw.quant.integer_program import Rows, minimise
from yolo_hw.quant.legal.errors import COARSER
from yolo_hw.quant.legal.problem import Factor, Fracs, Problem

TIME_LIMIT = 60.0
"""Seconds for each of the programs; the gap that is left then is reported."""

MAX_COMBINATIONS = 200_000
"""Combinations of one node's variables."""

FIRST_REACH = 2

Domains = list[list[int]]
"""Candidates of every variable."""


@dataclass(frozen=True)
class Solution:
    """Fraction bits of all variables.

    Attributes:
        fracs: One per variable.
        cost: Total relative noise above the observers' choices.
        gap: No solution is better by more than this share of the cost; 0: it is optimal.
    """

    fracs: Fracs
    cost: float
    gap: float = 0.0


def solve(problem: Problem, time_limit: float = TIME_LIMIT) -> Solution:
    """Return the legal fraction bits with the least cost.

    First a solution is looked for near the observers' choices, in windows that widen until there is one. All costs are
    positive, so in a better one no variable alone can cost as much as that solution does: the program over all
    candidates below that bound has the optimum among all that were measured.

    Args:
        problem: Variables, factors and costs.
        time_limit: Seconds for each program.

    Raises:
        QuantError: No candidates meet all rules; names the first layer and the rule that cannot hold with those before.
    """
    wanted = tuple(variable.wanted.frac for variable in problem.variables)
    first: Solution | None = Solution(wanted, problem.cost(wanted))
    reach = FIRST_REACH
    while first is None or first.cost == math.inf:
        if reach > 2 * COARSER:
            raise QuantError(_explain(problem, time_limit))
        first = _program(problem, problem.factors, _window(problem, reach), time_limit)
        reach *= 2
    domains = [
        [f for f in variable.candidates(problem.profile) if variable.errors.excess(f) <= first.cost]
        for variable in problem.variables
    ]
    if all(len(domain) == 1 for domain in domains):
        return first
    best = _program(problem, problem.factors, domains, time_limit, scale=1 / first.cost)
    assert best is not None
    return best if best.cost < first.cost else Solution(first.fracs, first.cost, best.gap)


def _window(problem: Problem, reach: int) -> Domains:
    return [
        [frac for frac in variable.candidates(problem.profile) if abs(frac - variable.wanted.frac) <= reach]
        for variable in problem.variables
    ]


def _program(
    problem: Problem, factors: Sequence[Factor], domains: Domains, time_limit: float, *, scale: float = 1.0
) -> Solution | None:
    """Return the best choice out of `domains` under some of the factors, None if there is none.

    Raises:
        QuantError: There is no answer within the time limit.
    """
    if not all(domains):
        return None
    rows = Rows()
    costs: list[float] = []
    column: list[dict[int, int]] = []
    for variable, domain in zip(problem.variables, domains, strict=True):
        column.append({frac: len(costs) + i for i, frac in enumerate(domain)})
        costs += [variable.errors.excess(frac) for frac in domain]
        rows.equal(dict.fromkeys(column[-1].values(), 1.0), 1)
    binaries = len(costs)
    for factor in factors:
        _add_factor(factor, domains, column, costs, rows)
    integers = np.arange(len(costs)) < binaries
    found = minimise(np.array(costs) * scale, rows, integers=integers, time_limit=time_limit)
    if found.x is None:
        if found.timed_out:
            raise QuantError(f"no fraction bits for target '{problem.profile.name}' found within {time_limit:g} s")
        return None
    fracs = tuple(domain[int(found.x[list(of.values())].argmax())] for domain, of in zip(domains, column, strict=True))
    return Solution(fracs, problem.cost(fracs), found.gap)


def _add_factor(factor: Factor, domains: Domains, column: list[dict[int, int]], costs: list[float], rows: Rows) -> None:
    """Give every allowed combination of a factor a column, tied to those of its variables."""
    scope = factor.scope
    count = math.prod(len(domains[i]) for i in scope)
    if count > MAX_COMBINATIONS:
        raise QuantError(
            f"{factor.name}: {len(scope)} formats meet here, whose {count} combinations are more than "
            f"{MAX_COMBINATIONS}: split the layer, or choose a target on which its own formats are legal"
        )
    combinations = {
        fracs: cost for fracs in product(*(domains[i] for i in scope)) if (cost := factor.cost(fracs)) < math.inf
    }
    if len(combinations) == count and not any(combinations.values()):
        return
    start = len(costs)
    costs += combinations.values()
    for position, i in enumerate(scope):
        shares: dict[int, list[int]] = {frac: [] for frac in domains[i]}
        for offset, fracs in enumerate(combinations):
            shares[fracs[position]].append(start + offset)
        for frac, having in shares.items():
            rows.equal({**dict.fromkeys(having, 1.0), column[i][frac]: -1.0}, 0)


def _explain(problem: Problem, time_limit: float) -> str:
    """Return which layer cannot be made legal together with those before it, and by which rule."""
    target = f"target '{problem.profile.name}'"
    for variable in problem.variables:
        if not variable.candidates(problem.profile):
            return (
                f"{variable.name}: a_frac must be in {problem.profile.a_frac} on {target}, but its values ask for "
                f"{variable.wanted.frac}"
            )
    domains = _window(problem, 2 * COARSER)
    low, high = 0, len(problem.factors)  # the first `low` factors can be met, the first `high` cannot
    best = _program(problem, (), domains, time_limit)
    while high - low > 1:
        middle = (low + high) // 2
        found = _program(problem, problem.factors[:middle], domains, time_limit)
        low, high, best = (middle, high, found) if found else (low, middle, best)
    assert best is not None
    factor = problem.factors[low]
    broken = factor.broken(tuple(best.fracs[i] for i in factor.scope))
    return (
        f"{broken}: no fraction bits within {COARSER} of their own choice meet this together with the layers before it"
    )
