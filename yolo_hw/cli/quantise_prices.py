# SPDX-License-Identifier: Apache-2.0
"""What ``yolo-hw quantise --budget`` counts, and what every choice of word lengths costs in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hls_export.config import AcceleratorConfig
from hls_export.plan import make_plan
from hls_export.plan.cycles import paying_tensor, plan_cycles
from yolo_hw.cli.accelerator_options import BUFFER_NAMES, accelerator_config
from yolo_hw.cli.console import note
from yolo_hw.cli.options import parse_budget, refuse_unheeded
from yolo_hw.errors import QuantError
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Conv2d
from yolo_hw.quant.bit_choices import ACTIVATIONS, Unit
from yolo_hw.quant.calibrate import Calibrated
from yolo_hw.quant.groups import format_groups
from yolo_hw.quant.mixed import COSTS, BudgetKind, Cost, GroupCost, LayerWork, layer_works, uniform_cost


@dataclass(frozen=True)
class BitBudget:
    """What ``--budget`` says.

    Attributes:
        kind: What is counted.
        value: How many, or the share of the network in the word lengths of the options.
        relative: Whether it is a share.
    """

    kind: BudgetKind
    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> BitBudget:
        """Parse ``bytes=0.6x``, a share, or ``bytes=200000``; see `yolo_hw.cli.options.parse_budget`."""
        kind, value, relative = parse_budget(text, [kind.value for kind in BudgetKind])
        return cls(BudgetKind(kind), value, relative)

    def limit(self, prices: Prices) -> float:
        """Return what a network may cost.

        Raises:
            QuantError: It is known to be out of reach.
        """
        limit = self.value * prices.uniform if self.relative else self.value
        if prices.span is None:
            return limit
        least, most = prices.span
        fixed = "convolutions and max pools of this accelerator take the same cycles at every word length"
        if limit < least:
            raise QuantError(
                f"word lengths: the budget is {limit:.12g} cycles, the smallest number that can be reached "
                f"{least:.12g}, the largest {most:.12g}: {fixed}"
            )
        if limit >= most:
            note(f"the budget of {limit:.12g} cycles leaves every choice, the dearest costs {most:.12g}: {fixed}")
        return limit


@dataclass(frozen=True)
class Prices:
    """What word lengths cost.

    Attributes:
        layer: A layer with weights.
        group: A group of activations, beside the layers that read it; None if it costs nothing.
        uniform: The network in the word lengths of the options.
        span: The cheapest and the dearest choice, where they are known.
    """

    layer: Cost
    group: GroupCost | None
    uniform: float
    span: tuple[float, float] | None = None


Pricing = Callable[[Calibrated, IntGraph, Sequence[int]], Prices]
"""Network in the word lengths of the options, the same as integers, word lengths of activations to try -> prices."""


def budget_pricing(budget: BitBudget, options: dict[str, Any]) -> Pricing:
    """Return what prices a network.

    Raises:
        QuantError: Cycles are budgeted without a table or a tile, or with both, or those are given without cycles.
        ExportError: There is no such accelerator.
    """
    table, tile = options["cycles"], options["tile"]
    if budget.kind is not BudgetKind.CYCLES:
        refuse_unheeded(["cycles", "tile", *BUFFER_NAMES], f"--budget {budget.kind.value}")
        return partial(_priced_by, COSTS[budget.kind])
    if (table is None) == (tile is None):
        raise QuantError(
            "--budget cycles needs an accelerator, --tile TMxTN, or a table of cycles, --cycles FILE: give one of them"
        )
    if tile is not None:
        return partial(accelerator_prices, accelerator_config(options))
    refuse_unheeded(BUFFER_NAMES, "a table of cycles")
    return partial(_priced_by, cycle_table(table))


def _priced_by(cost: Cost, calibrated: Calibrated, graph: IntGraph, a_bits: Sequence[int]) -> Prices:
    config = calibrated.plan.config
    works = layer_works(calibrated.reference)
    return Prices(cost, None, uniform_cost(works, cost, config.w_bits, config.a_bits))


def accelerator_prices(
    config: AcceleratorConfig, calibrated: Calibrated, graph: IntGraph, a_bits: Sequence[int]
) -> Prices:
    """Return the cycles of this repository's accelerator, from its plans of the network at all word lengths.

    A layer with weights costs the same at all of them. The commands between layers move or sum codes, byte by byte:
    each is charged to the group of the tensor whose bytes it counts, so the sums are those of `plan_cycles`.

    Args:
        config: The hardware.
        calibrated: The network in the word lengths of the options.
        graph: The same as integers.
        a_bits: Word lengths of activations that can be chosen.

    Raises:
        ExportError: The accelerator cannot run the network.
    """
    groups = format_groups(calibrated.reference, calibrated.plan.config)
    label_of = {name: f"{ACTIVATIONS}:{group.producers[0]}" for group in groups for name in group.members}
    layers: dict[str, int] = {}
    moved = {(label, bits): 0 for label in label_of.values() for bits in a_bits}
    for bits in a_bits:
        for entry in plan_cycles(make_plan(_with_activations_of(graph, bits), config)):
            if isinstance(graph.node(entry.command.node), Conv2d):
                layers[entry.command.node] = entry.cycles
            else:
                moved[label_of[paying_tensor(entry.command)], bits] += entry.cycles

    def layer(work: LayerWork, w_bits: int, a_bits: int) -> int:
        return layers[work.name]

    def group(unit: Unit, bits: int) -> int:
        return moved[unit.label, bits]

    choices = [[moved[label, bits] for bits in a_bits] for label in dict.fromkeys(label_of.values())]
    fixed = sum(layers.values())
    span = (fixed + sum(map(min, choices)), fixed + sum(map(max, choices)))
    uniform = sum(entry.cycles for entry in plan_cycles(make_plan(graph, config)))
    return Prices(layer, group, uniform, span)


def _with_activations_of(graph: IntGraph, bits: int) -> IntGraph:
    """Return a graph for planning alone: the sizes of all maps are those of another word length, their values not."""
    tensors = {
        name: info if name == INPUT else replace(info, fmt=replace(info.fmt, bits=bits, signed=True))
        for name, info in graph.tensors.items()
    }
    return replace(graph, tensors=tensors)


def cycle_table(path: Path) -> Cost:
    """Read a table of cycles: ``{"conv_0": {"8x8": 1200, "4x8": 600}}``, weights x activations.

    Raises:
        QuantError: The file is no such table; when a layer is priced, that it lacks an entry.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        cycles = {(name, key): float(value) for name, row in table.items() for key, value in row.items()}
        if not all(0 <= value < float("inf") for value in cycles.values()):
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise QuantError(f'{path}: must be JSON of layer -> {{"W_BITSxA_BITS": cycles}}, cycles at least 0') from None

    def price(layer: LayerWork, w_bits: int, a_bits: int) -> float:
        key = f"{w_bits}x{a_bits}"
        if (layer.name, key) not in cycles:
            raise QuantError(f"{path}: has no cycles of {layer.name} with {key} bits (weights x activations)")
        return cycles[layer.name, key]

    return price
