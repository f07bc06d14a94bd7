# SPDX-License-Identifier: Apache-2.0
"""What a target costs: which formats moved, and how much noise each move adds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from yolo_hw.quant.layer_statistics import decibels
from yolo_hw.quant.legal.problem import ConvFactor, Problem
from yolo_hw.quant.legal.solver import Solution


@dataclass(frozen=True)
class Change:
    """One format that is not what its values asked for.

    Attributes:
        layer: Layer, or first tensor of a format group.
        what: ``output``, ``argument`` (of a table) or ``weights``.
        before: Fraction bits that were asked for; the mean over the channels for weights.
        after: Fraction bits that the target gets.
        channels: Channels of the weights that changed; 0 for tensors.
        sqnr_before: Signal-to-noise ratio in dB before; that of the sum for weights.
        sqnr_after: The same after.
    """

    layer: str
    what: str
    before: float
    after: float
    channels: int
    sqnr_before: float
    sqnr_after: float

    def __str__(self) -> str:
        channels = f" in {self.channels} channels" if self.what == "weights" else ""
        return (
            f"{self.layer}: {self.what} {self.before:g} -> {self.after:g} fraction bits{channels}, "
            f"{self.sqnr_before:.1f} -> {self.sqnr_after:.1f} dB"
        )


@dataclass(frozen=True)
class LegalReport:
    """The cost of a target for one network.

    Attributes:
        target: Name of the profile.
        changes: What moved, in execution order, the weights last.
        added_noise: Sum over the layers of the noise above the observers' choices, relative to each layer's signal.
        gap: No other fraction bits are better by more than this share of `added_noise`; 0: these are the best.
    """

    target: str
    changes: tuple[Change, ...] = ()
    added_noise: float = 0.0
    gap: float = 0.0

    @property
    def sqnr(self) -> float:
        """The added noise as a ratio of one layer's signal to it, in dB; infinite if nothing was added."""
        return decibels(1.0, self.added_noise)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; infinite ratios become None."""
        document = {**asdict(self), "sqnr": self.sqnr}
        document["changes"] = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in document["changes"]
        ]
        return {**document, "sqnr": self.sqnr if math.isfinite(self.sqnr) else None}


def make_report(problem: Problem, solution: Solution) -> LegalReport:
    """Compare a solution with what the observers chose."""
    changes = []
    for variable, frac in zip(problem.variables, solution.fracs, strict=True):
        if frac != variable.wanted.frac:
            sqnr = variable.errors.sqnr(variable.wanted.frac), variable.errors.sqnr(frac)
            what = "argument" if variable.argument else "output"
            changes.append(Change(variable.name, what, variable.wanted.frac, frac, 0, *sqnr))
    for factor in problem.factors:
        if isinstance(factor, ConvFactor):
            choice = factor.weights.choose(factor.context(tuple(solution.fracs[i] for i in factor.scope)))
            if choice.repaired:
                before, after = float(factor.weights.own.mean()), float(choice.w_frac.mean())
                sqnr = (
                    decibels(factor.signal, factor.weights.own_noise),
                    decibels(factor.signal, float(choice.noise.mean())),
                )
                changes.append(Change(factor.name, "weights", before, after, choice.repaired, *sqnr))
    return LegalReport(problem.profile.name, tuple(changes), solution.cost, solution.gap)
