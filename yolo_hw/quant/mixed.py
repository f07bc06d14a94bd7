# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: word lengths with the least damage within a budget, as an integer program.

For every layer l and every pair of bits (w, a) of its weights and of what it reads there is a variable ``y[l, w, a]``,
for every format group g and its bits a variable ``z[g, a]``, all 0 or 1:

    minimise    sum damage_w[l, w] y[l, w, a] + sum damage_a[g, a] z[g, a]
    such that   sum_w y[l, w, a] = z[g(l), a]       the layer reads what its group has
                sum_a z[g, a] = 1                   one word length per group
                sum cost[l, w, a] y[l, w, a] + sum cost[g, a] z[g, a] <= budget

The solver's tolerances are taken out: every answer is priced again exactly and, if it is over the budget, excluded;
options that cannot be part of an optimum leave before a second run whose scale fits what is left.

Reference:
    Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021, section 3.3 (the integer program).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import QuantError
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT
from yolo_hw.quant import folded as G
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS, Unit
from yolo_hw.quant.config import Override, QuantConfig
from yolo_hw.quant.folded import FoldedGraph
from yolo_hw.quant.groups import format_groups
from yolo_hw.quant.integer_program import Answer, Rows, minimise
from yolo_hw.quant.sensitivity import Sensitivity

MAX_EXCLUDED = 64
"""Answers over the budget by less than the solver's tolerance that are excluded before giving up."""
BIAS_BYTES = 4


class BudgetKind(str, Enum):
    """What a budget counts."""

    BYTES = "bytes"
    """Bytes of packed weights, each layer rounded up, and four for each bias."""
    MACBITS = "macbits"
    """Multiply-accumulates times bits of the weight times bits of the activation."""
    CYCLES = "cycles"
    """Cycles of an accelerator, by a function from outside."""


@dataclass(frozen=True)
class LayerWork:
    """A layer with weights, as budgets see it.

    Attributes:
        name: The layer.
        reads: ``a:`` and a computed tensor of the format group it reads, None for the image.
        weights: Number of weights.
        biases: Number of biases.
        macs: Multiply-accumulates of one image.
    """

    name: str
    reads: str | None
    weights: int
    biases: int
    macs: int


Cost = Callable[[LayerWork, int, int], float]
"""Layer, bits of its weights, bits of what it reads -> cost."""
GroupCost = Callable[[Unit, int], float]
"""Group of activations, its bits -> what it costs beside the layers that read it, such as moves and sums."""


def layer_bytes(layer: LayerWork, w_bits: int, a_bits: int) -> int:
    """Return what `BudgetKind.BYTES` counts."""
    return -(-layer.weights * w_bits // 8) + BIAS_BYTES * layer.biases


def layer_macbits(layer: LayerWork, w_bits: int, a_bits: int) -> int:
    """Return what `BudgetKind.MACBITS` counts."""
    return layer.macs * w_bits * a_bits


COSTS: dict[BudgetKind, Cost] = {BudgetKind.BYTES: layer_bytes, BudgetKind.MACBITS: layer_macbits}
"""What needs nothing from outside."""


def layer_works(graph: FoldedGraph) -> list[LayerWork]:
    """Return the layers with weights in execution order."""
    groups = format_groups(graph, QuantConfig())
    label = {name: f"{ACTIVATIONS}:{group.producers[0]}" for group in groups for name in group.members}
    return [
        LayerWork(
            node.name,
            None if node.inputs[0] == INPUT else label[node.inputs[0]],
            int(node.weight.size),
            int(node.bias.size),
            int(node.weight.size) * node.shape.h * node.shape.w,
        )
        for node in graph.nodes
        if isinstance(node, G.FoldedConv)
    ]


def uniform_cost(works: Sequence[LayerWork], cost: Cost, w_bits: int, a_bits: int) -> float:
    """Return the cost of a network with equal word lengths; the image keeps its own."""
    return math.fsum(cost(w, w_bits, INPUT_FORMAT.bits if w.reads is None else a_bits) for w in works)


@dataclass(frozen=True)
class BitChoice:
    """Word lengths of all units.

    Attributes:
        bits: Unit -> word length.
        damage: Their damages' sum: what is predicted of the whole.
        cost: What they cost.
        budget: What they may cost.
        gap: Share by which a better choice could at most lower the damage; 0 unless a time limit struck.
    """

    bits: dict[Unit, int]
    damage: float
    cost: float
    budget: float
    gap: float = 0.0

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The choice as options of quantisation, for `QuantConfig.overrides`."""
        return tuple(override for unit, bits in self.bits.items() for override in unit.overrides(bits))


def choose_bits(
    sensitivity: Sensitivity,
    works: Sequence[LayerWork],
    cost: Cost,
    budget: float,
    *,
    group_cost: GroupCost | None = None,
    time_limit: float | None = None,
) -> BitChoice:
    """Choose a word length for every unit: the least sum of damages within the budget.

    Args:
        sensitivity: Damage of every unit at its candidates.
        works: The layers, see `layer_works`.
        cost: Price of a layer.
        budget: What all layers may cost together.
        group_cost: Price of a group of activations beside them; by default nothing.
        time_limit: Seconds for each run of the solver; the answer then says how far from the optimum it may be.

    Returns:
        The choice; of equally good ones always the same.

    Raises:
        QuantError: The budget is below the cheapest choice, which is named, or the time was too short for any.
    """
    program = _Program(sensitivity, works, cost, group_cost)
    first = program.solve(program.damage, budget, time_limit)
    if first is None:
        cheapest = program.solve(program.cost, math.inf, time_limit)
        if cheapest is None:
            raise QuantError("word lengths: no choice was found in the time limit; give more")
        least = program.price(cheapest.chosen)
        raise QuantError(f"word lengths: the budget is {budget:.6g}, the smallest cost that can be reached {least:.6g}")
    best = first
    limit = program.total(first.chosen)
    if limit > 0:  # options of more damage than a whole choice are in no better one
        program.forbid(program.damage > limit)
        best = program.solve(program.damage, budget, time_limit) or first
    found = min((best, first), key=lambda answer: program.total(answer.chosen))
    damage = program.total(found.chosen)
    return BitChoice(program.bits(found.chosen), damage, program.price(found.chosen), budget, best.gap)


@dataclass(frozen=True)
class _Answer:
    chosen: npt.NDArray[np.bool_]
    gap: float


class _Program:
    """The integer program; one column per option, those of layers before those of groups."""

    def __init__(
        self, sensitivity: Sensitivity, works: Sequence[LayerWork], cost: Cost, group_cost: GroupCost | None
    ) -> None:
        units = {unit.label: unit for unit in sensitivity.units}
        groups = [unit for unit in sensitivity.units if unit.kind == ACTIVATIONS]
        # Targets on which the inputs of an add have one format join groups that are apart elsewhere.
        group_of = {f"{ACTIVATIONS}:{name}": unit.label for unit in groups for name in unit.members}
        self.options: list[tuple[Unit, int]] = []
        damages: list[float] = []
        costs: list[float] = []
        self.rows = Rows()
        place: dict[tuple[str, int], int] = {}
        readers: dict[tuple[str, int], list[list[int]]] = {}
        for layer in works:
            unit = units[f"{WEIGHTS}:{layer.name}"]
            group = None if layer.reads is None else group_of[layer.reads]
            read = [INPUT_FORMAT.bits] if group is None else sorted(sensitivity.damage[group])
            for a in read:
                columns = []
                for w, damage in sorted(sensitivity.damage[unit.label].items()):
                    columns.append(len(self.options))
                    self.options.append((unit, w))
                    damages.append(damage)
                    costs.append(float(cost(layer, w, a)))
                if group is None:
                    self.rows.equal(dict.fromkeys(columns, 1.0), 1)
                else:
                    readers.setdefault((group, a), []).append(columns)
        for unit in groups:
            choices = []
            for a, damage in sorted(sensitivity.damage[unit.label].items()):
                place[unit.label, a] = len(self.options)
                choices.append(len(self.options))
                self.options.append((unit, a))
                damages.append(damage)
                costs.append(0.0 if group_cost is None else float(group_cost(unit, a)))
            self.rows.equal(dict.fromkeys(choices, 1.0), 1)
        for key, layers in readers.items():
            for columns in layers:
                self.rows.equal({**dict.fromkeys(columns, 1.0), place[key]: -1.0}, 0)
        self.damage = np.array(damages)
        self.cost = np.array(costs)
        self.upper = np.ones(len(self.options))

    def forbid(self, columns: npt.NDArray[np.bool_]) -> None:
        """Take options out."""
        self.upper = np.where(columns, 0.0, self.upper)

    def price(self, chosen: npt.NDArray[np.bool_]) -> float:
        """Return the exact cost of an answer."""
        return math.fsum(self.cost[chosen])

    def total(self, chosen: npt.NDArray[np.bool_]) -> float:
        """Return the damage of an answer."""
        return math.fsum(self.damage[chosen])

    def bits(self, chosen: npt.NDArray[np.bool_]) -> dict[Unit, int]:
        """Return the word lengths of an answer."""
        return {unit: bits for (unit, bits), taken in zip(self.options, chosen, strict=True) if taken}

    def solve(self, objective: npt.NDArray[np.float64], budget: float, time_limit: float | None) -> _Answer | None:
        """Return the best answer within the budget, None if there is none."""
        usable = objective[self.upper > 0]
        scale = float(usable.max(initial=0.0)) or 1.0
        excluded = Rows()
        for _ in range(MAX_EXCLUDED):
            found = self._run(objective / scale, budget, excluded, time_limit)
            if found.x is None:
                return None
            chosen = np.asarray(found.x > 0.5)
            if self.price(chosen) <= budget:
                return _Answer(chosen, found.gap)
            columns = np.flatnonzero(chosen).tolist()
            excluded.at_most(dict.fromkeys(columns, 1.0), len(columns) - 1.0)
        raise QuantError(f"word lengths: {MAX_EXCLUDED} choices cost the budget of {budget:.12g} but for rounding")

    def _run(
        self, objective: npt.NDArray[np.float64], budget: float, excluded: Rows, time_limit: float | None
    ) -> Answer:
        rows = self.rows.joined(excluded)
        if math.isfinite(budget):
            unit = max(abs(budget), float(self.cost.max(initial=0.0)), 1e-300)
            rows.at_most({i: cost / unit for i, cost in enumerate(self.cost) if cost}, budget / unit)
        return minimise(objective, rows, upper=self.upper, time_limit=time_limit)
